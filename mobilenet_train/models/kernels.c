/* The parts of a training step on a CPU that PyTorch's own kernels spend most of their time on without need:
 * batch-norm with the activation after it, the backward pass of squeeze-and-excite, and the weight gradient of a
 * depthwise convolution. kernels.py calls them.
 *
 * Maps are float32 in channels-last order: rows of `channels` numbers, one row a pixel. Work is split over threads the
 * same way every time and partial sums are added in the order of threads, so results repeat to the last bit for a
 * number of threads. OpenMP's functions are torch's own: the library is not linked to another copy.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define BLOCK_ROWS 64 /* summed in float32 before they are added to the sum in float64 */
#define STRIP 256     /* columns whose sums stay in the first-level cache */

enum activation { NONE, RELU, RELU6, HARD_SWISH };

/* Not-a-number goes through all of them, so that a run that diverges is noticed. */
INLINE float clamp6(float z) { return z < 0 ? 0 : (z > 6 ? 6 : z); }

INLINE float activate(enum activation kind, float z) {
  switch (kind) {
    case RELU: return z < 0 ? 0 : z;
    case RELU6: return clamp6(z);
    case HARD_SWISH: return z * clamp6(z + 3) * (1.0f / 6);
    default: return z;
  }
}

INLINE float slope(enum activation kind, float z) {
  switch (kind) {
    case RELU: return z <= 0 ? 0 : 1;
    case RELU6: return z <= 0 || z >= 6 ? 0 : 1;
    case HARD_SWISH: return z < -3 ? 0 : (z > 3 ? 1 : z * (1.0f / 3) + 0.5f);
    default: return 1;
  }
}

#define FOR_EACH_KIND(function, ...)                           \
  switch (kind) {                                              \
    case RELU: function(RELU, __VA_ARGS__); break;             \
    case RELU6: function(RELU6, __VA_ARGS__); break;           \
    case HARD_SWISH: function(HARD_SWISH, __VA_ARGS__); break; \
    default: function(NONE, __VA_ARGS__);                      \
  }

/* Narrow rows are taken several at a time, as one row of more columns, so that vectors are full. */
static long rows_to_fold(long rows, long channels) {
  long fold = 1;
  while (fold < 16 && rows % (2 * fold) == 0 && 2 * fold * channels <= 1024) fold *= 2;
  return fold;
}

static void repeat(float *to, const float *from, long channels, long fold) {
  for (long f = 0; f < fold; f++) memcpy(to + f * channels, from, channels * sizeof(float));
}

/* Adds a channel's two sums over the threads, whose rows of sums follow one another in `parts`, and over folded rows. */
INLINE void add_parts(double *s, double *q, const double *parts, long team, long fold, long channels, long channel) {
  const long columns = fold * channels;
  for (long part = 0; part < team; part++)
    for (long column = channel; column < columns; column += channels) {
      *s += parts[2 * part * columns + column];
      *q += parts[(2 * part + 1) * columns + column];
    }
}

/* Adds to `sum` and `square` those of (x - shift) over rows [first, last). */
static void add_moments(const float *x, const float *shift, double *sum, double *square, long first, long last,
                        long columns) {
  float s[STRIP], q[STRIP];
  for (long row = first; row < last; row += BLOCK_ROWS) {
    const long end = row + BLOCK_ROWS < last ? row + BLOCK_ROWS : last;
    for (long from = 0; from < columns; from += STRIP) {
      const long width = columns - from < STRIP ? columns - from : STRIP;
      memset(s, 0, sizeof s);
      memset(q, 0, sizeof q);
      for (long r = row; r < end; r++) {
        const float *restrict in = x + r * columns + from, *restrict k = shift + from;
        for (long c = 0; c < width; c++) {
          const float d = in[c] - k[c];
          s[c] += d;
          q[c] += d * d;
        }
      }
      for (long c = 0; c < width; c++) sum[from + c] += s[c], square[from + c] += q[c];
    }
  }
}

INLINE void normalise_as(enum activation kind, const float *restrict x, float *restrict y, const float *restrict scale,
                         const float *restrict offset, long rows, long columns) {
  for (long r = 0; r < rows; r++, x += columns, y += columns)
    for (long c = 0; c < columns; c++) y[c] = activate(kind, x[c] * scale[c] + offset[c]);
}

static void normalise(enum activation kind, const float *x, float *y, const float *scale, const float *offset,
                      long rows, long columns) {
  FOR_EACH_KIND(normalise_as, x, y, scale, offset, rows, columns)
}

/* y = activation(batch_norm(x)) with the batch's own mean and variance. The mean and 1 / deviation are kept for the
 * backward pass, and mean and unbiased variance are mixed into the running ones. */
void norm_forward(const float *x, float *y, const float *weight, const float *bias, float *running_mean,
                  float *running_variance, float *mean, float *inverse_deviation, long rows, long channels,
                  float momentum, float epsilon, enum activation kind, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  double *moments = calloc(2 * threads * columns, sizeof(double));
  float *coefficients = malloc(3 * columns * sizeof(float));
  float *shift = coefficients, *scale = shift + columns, *offset = scale + columns;
  repeat(shift, x, channels, fold); /* any number near the mean keeps the difference of squares exact */
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = folded_rows * me / team, last = folded_rows * (me + 1) / team;
    double *sum = moments + 2 * me * columns;
    add_moments(x, shift, sum, sum + columns, first, last, columns);
#pragma omp barrier
#pragma omp for
    for (long c = 0; c < channels; c++) {
      double s = 0, q = 0;
      add_parts(&s, &q, moments, team, fold, channels, c);
      const double m = s / rows, variance = fmax(q / rows - m * m, 0);
      mean[c] = (float)(shift[c] + m);
      inverse_deviation[c] = (float)(1 / sqrt(variance + epsilon));
      running_mean[c] += momentum * (mean[c] - running_mean[c]);
      running_variance[c] += momentum * ((float)(variance * rows / (rows - 1)) - running_variance[c]);
      for (long f = 0; f < fold; f++) {
        scale[f * channels + c] = weight[c] * inverse_deviation[c];
        offset[f * channels + c] = bias[c] - mean[c] * weight[c] * inverse_deviation[c];
      }
    }
    normalise(kind, x + first * columns, y + first * columns, scale, offset, last - first, columns);
  }
  free(moments);
  free(coefficients);
}

/* What both passes of the backward need of each column; five rows of `columns` numbers. */
struct columns {
  float *scale, *offset, *mean, *tilt, *level;
};

INLINE void add_gradient_sums_as(enum activation kind, const float *gradient, const float *x, struct columns k, double *sum,
                                 double *product, long first, long last, long columns) {
  float s[STRIP], q[STRIP];
  for (long row = first; row < last; row += BLOCK_ROWS) {
    const long end = row + BLOCK_ROWS < last ? row + BLOCK_ROWS : last;
    for (long from = 0; from < columns; from += STRIP) {
      const long width = columns - from < STRIP ? columns - from : STRIP;
      memset(s, 0, sizeof s);
      memset(q, 0, sizeof q);
      const float *restrict scale = k.scale + from, *restrict offset = k.offset + from, *restrict mean = k.mean + from;
      for (long r = row; r < end; r++) {
        const float *restrict in = x + r * columns + from, *restrict g = gradient + r * columns + from;
        for (long c = 0; c < width; c++) {
          const float d = g[c] * slope(kind, in[c] * scale[c] + offset[c]);
          s[c] += d;
          q[c] += d * (in[c] - mean[c]);
        }
      }
      for (long c = 0; c < width; c++) sum[from + c] += s[c], product[from + c] += q[c];
    }
  }
}

INLINE void input_gradient_as(enum activation kind, const float *restrict gradient, const float *restrict x, float *restrict out,
                              struct columns k, long rows, long columns) {
  const float *restrict scale = k.scale, *restrict offset = k.offset, *restrict mean = k.mean;
  const float *restrict tilt = k.tilt, *restrict level = k.level;
  for (long r = 0; r < rows; r++, x += columns, gradient += columns, out += columns)
    for (long c = 0; c < columns; c++) {
      const float d = gradient[c] * slope(kind, x[c] * scale[c] + offset[c]);
      out[c] = d * scale[c] + (x[c] - mean[c]) * tilt[c] + level[c];
    }
}

static void add_gradient_sums(enum activation kind, const float *gradient, const float *x, struct columns k, double *sum,
                              double *product, long first, long last, long columns) {
  FOR_EACH_KIND(add_gradient_sums_as, gradient, x, k, sum, product, first, last, columns)
}

static void input_gradient(enum activation kind, const float *gradient, const float *x, float *out, struct columns k, long rows,
                           long columns) {
  FOR_EACH_KIND(input_gradient_as, gradient, x, out, k, rows, columns)
}

/* The gradients of norm_forward's x, weight and bias. */
void norm_backward(const float *gradient, const float *x, const float *weight, const float *bias, const float *mean,
                   const float *inverse_deviation, float *grad_x, float *grad_weight, float *grad_bias, long rows,
                   long channels, enum activation kind, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  double *sums = calloc(2 * threads * columns, sizeof(double));
  float *numbers = malloc(5 * columns * sizeof(float));
  struct columns k = {numbers, numbers + columns, numbers + 2 * columns, numbers + 3 * columns, numbers + 4 * columns};
  repeat(k.mean, mean, channels, fold);
  for (long f = 0; f < fold; f++)
    for (long c = 0; c < channels; c++) {
      k.scale[f * channels + c] = weight[c] * inverse_deviation[c];
      k.offset[f * channels + c] = bias[c] - mean[c] * weight[c] * inverse_deviation[c];
    }
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = folded_rows * me / team, last = folded_rows * (me + 1) / team, start = first * columns;
    double *sum = sums + 2 * me * columns;
    add_gradient_sums(kind, gradient, x, k, sum, sum + columns, first, last, columns);
#pragma omp barrier
#pragma omp for
    for (long c = 0; c < channels; c++) {
      double s = 0, q = 0;
      add_parts(&s, &q, sums, team, fold, channels, c);
      grad_bias[c] = (float)s;
      grad_weight[c] = (float)(q * inverse_deviation[c]);
      for (long f = 0; f < fold; f++) {
        k.level[f * channels + c] = (float)(-k.scale[c] * s / rows);
        k.tilt[f * channels + c] = (float)(-k.scale[c] * q / rows * inverse_deviation[c] * inverse_deviation[c]);
      }
    }
    input_gradient(kind, gradient + start, x + start, grad_x + start, k, last - first, columns);
  }
  free(sums);
  free(numbers);
}

/* The gradient of a scale for each image and channel: the sums over pixels of the products of two maps. */
void sums_of_products(const float *a, const float *b, float *sums, long images, long pixels, long channels,
                      int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    float *restrict sum = memset(sums + n * channels, 0, channels * sizeof(float));
    for (long p = n * pixels; p < (n + 1) * pixels; p++)
      for (long c = 0; c < channels; c++) sum[c] += a[p * channels + c] * b[p * channels + c];
  }
}

/* out = maps * scale + level, with a scale and a level for each image and channel. */
void scale_and_lift(const float *maps, const float *scales, const float *levels, float *out, long images, long pixels,
                    long channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    const float *restrict scale = scales + n * channels, *restrict level = levels + n * channels;
    for (long p = n * pixels; p < (n + 1) * pixels; p++) {
      const float *restrict in = maps + p * channels;
      float *restrict to = out + p * channels;
      for (long c = 0; c < channels; c++) to[c] = in[c] * scale[c] + level[c];
    }
  }
}

/* The weight gradient of a 3x3 or 5x5 depthwise convolution, 16 channels at a time. */

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

#ifdef __AVX512F__
#define SUMMED_ROWS(kernel) (kernel) /* 25 sums and what they need fit into 32 registers */
#else
#define SUMMED_ROWS(kernel) 1
#endif

struct shape {
  long width, out_height, out_width, stride, padding;
};

INLINE lanes load(const float *from) { return *(const lanes *)from; }

/* The first channel of a block of 16: the last one overlaps those before it where channels are no multiple of 16. */
INLINE long first_channel(long block, long channels) {
  return (block + 1) * LANES <= channels ? block * LANES : channels - LANES;
}

/* Copies an image, pixel after pixel, into padded maps of 16 channels. */
static void pack(float *to, const float *image, long height, long width, long channels, long padding) {
  const long row = width + 2 * padding, map = (height + 2 * padding) * row * LANES;
  for (long y = 0; y < height; y++)
    for (long x = 0; x < width; x++, image += channels) {
      float *pixel = to + ((y + padding) * row + x + padding) * LANES;
      for (long block = 0; block * LANES < channels; block++)
        *(lanes *)(pixel + block * map) = load(image + first_channel(block, channels));
    }
}

/* Adds one image's share for 16 channels to the sums of the kernel's elements; `padded` is from pack(). */
INLINE void add_products_of(long kernel, lanes *sums, const float *padded, const float *gradient, struct shape s) {
  const long row = s.width + 2 * s.padding, rows = SUMMED_ROWS(kernel);
  for (long top = 0; top < kernel; top += rows) {
    lanes sum[25] = {0};
    for (long oy = 0; oy < s.out_height; oy++)
      for (long ox = 0; ox < s.out_width; ox++) {
        const lanes g = load(gradient + (oy * s.out_width + ox) * LANES);
        const float *corner = padded + ((oy * s.stride + top) * row + ox * s.stride) * LANES;
#pragma GCC unroll 5
        for (long ky = 0; ky < rows; ky++)
#pragma GCC unroll 5
          for (long kx = 0; kx < kernel; kx++) sum[ky * kernel + kx] += g * load(corner + (ky * row + kx) * LANES);
      }
    for (long k = 0; k < rows * kernel; k++) sums[top * kernel + k] += sum[k];
  }
}

static void add_products(long kernel, lanes *sums, const float *padded, const float *gradient, struct shape s) {
  if (kernel == 3)
    add_products_of(3, sums, padded, gradient, s);
  else
    add_products_of(5, sums, padded, gradient, s);
}

/* `channels` is at least 16. */
void depthwise_weight_gradient(const float *gradient, const float *x, float *grad_weight, long images, long height,
                               long width, long channels, long out_height, long out_width, long kernel, long stride,
                               long padding, int threads) {
  const struct shape s = {width, out_height, out_width, stride, padding};
  const long blocks = (channels + LANES - 1) / LANES, taps = kernel * kernel;
  const long map = (height + 2 * padding) * (width + 2 * padding) * LANES, out_map = out_height * out_width * LANES;
  const long sums = blocks * taps * LANES, private = blocks * (map + out_map) + sums;
  const long bytes = threads * private * sizeof(float);
  float *memory = memset(aligned_alloc(sizeof(lanes), bytes), 0, bytes);
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    float *total = memory + me * private, *padded = total + sums, *gradients = padded + blocks * map;
    for (long n = images * me / team; n < images * (me + 1) / team; n++) {
      pack(padded, x + n * height * width * channels, height, width, channels, padding);
      pack(gradients, gradient + n * out_height * out_width * channels, out_height, out_width, channels, 0);
      for (long block = 0; block < blocks; block++)
        add_products(kernel, (lanes *)total + block * taps, padded + block * map, gradients + block * out_map, s);
    }
#pragma omp barrier
#pragma omp for
    for (long c = 0; c < channels; c++) {
      const long block = c / LANES, lane = c - first_channel(block, channels);
      for (long k = 0; k < taps; k++) {
        float total = 0;
        for (long part = 0; part < team; part++) total += memory[part * private + (block * taps + k) * LANES + lane];
        grad_weight[c * taps + k] = total;
      }
    }
  }
  free(memory);
}
