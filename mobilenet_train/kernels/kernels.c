/* The parts of a training step on a CPU that PyTorch's own kernels spend most of their time on without need:
 * batch-norm with the activation after it, squeeze-and-excite, and a depthwise convolution with the norms around it.
 * kernels.py calls them.
 *
 * Maps are float32, or bfloat16 where BF16 is defined, in channels-last order: rows of `channels` numbers, one row a
 * pixel. All else is float32, and so is all arithmetic. Work is split over threads the same way every time and partial
 * sums are added in the order of threads, so results repeat to the last bit for a number of threads. OpenMP's functions
 * are torch's own: the library is not linked to another copy.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define BLOCK_ROWS 64 /* summed in float32 before they are added to the sum in float64 */
#define STRIP 256     /* columns whose sums stay in the first-level cache */

#ifdef BF16
typedef uint16_t number; /* the upper half of a float32 */

INLINE float widen(number n) {
  const union { uint32_t bits; float value; } wide = {.bits = (uint32_t)n << 16};
  return wide.value;
}

/* To the nearest, of two to the even one. Arithmetic makes no not-a-number that would overflow. */
INLINE number narrow(float value) {
  const union { float value; uint32_t bits; } wide = {.value = value};
  return (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
}
#else
typedef float number;

INLINE float widen(number n) { return n; }
INLINE number narrow(float value) { return value; }
#endif

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

/* A batch-norm and the activation after it. */
struct norm {
  const float *weight, *bias;
  float *mean, *inverse_deviation; /* of the batch, from the forward pass */
  float *running_mean, *running_variance;
  float *grad_weight, *grad_bias; /* from the backward pass */
  float momentum, epsilon;
  enum activation activation;
};

/* Adds a channel's two sums over the threads, whose rows of sums follow one another in `parts` (of zeros where a thread
 * did not start), and over folded rows. */
INLINE void add_parts(double *s, double *q, const double *parts, long threads, long fold, long channels,
                      long channel) {
  const long columns = fold * channels;
  for (long part = 0; part < threads; part++)
    for (long column = channel; column < columns; column += channels) {
      *s += parts[2 * part * columns + column];
      *q += parts[(2 * part + 1) * columns + column];
    }
}

/* Adds to `sum` and `square` those of (x - shift) over rows [first, last). */
static void add_moments(const number *x, const float *shift, double *sum, double *square, long first, long last,
                        long columns) {
  float s[STRIP], q[STRIP];
  for (long row = first; row < last; row += BLOCK_ROWS) {
    const long end = row + BLOCK_ROWS < last ? row + BLOCK_ROWS : last;
    for (long from = 0; from < columns; from += STRIP) {
      const long width = columns - from < STRIP ? columns - from : STRIP;
      memset(s, 0, sizeof s);
      memset(q, 0, sizeof q);
      for (long r = row; r < end; r++) {
        const number *restrict in = x + r * columns + from;
        const float *restrict k = shift + from;
        for (long c = 0; c < width; c++) {
          const float d = widen(in[c]) - k[c];
          s[c] += d;
          q[c] += d * d;
        }
      }
      for (long c = 0; c < width; c++) sum[from + c] += s[c], square[from + c] += q[c];
    }
  }
}

INLINE void normalise_as(enum activation kind, const number *restrict x, number *restrict y,
                         const float *restrict scale, const float *restrict offset, long rows, long columns) {
  for (long r = 0; r < rows; r++, x += columns, y += columns)
    for (long c = 0; c < columns; c++) y[c] = narrow(activate(kind, widen(x[c]) * scale[c] + offset[c]));
}

static void normalise(enum activation kind, const number *x, number *y, const float *scale, const float *offset,
                      long rows, long columns) {
  FOR_EACH_KIND(normalise_as, x, y, scale, offset, rows, columns)
}

/* What the passes need of each column; five rows of `columns` numbers, beginning at `scale`. */
struct columns {
  float *scale, *offset, *mean, *tilt, *level;
};

/* y = activation(x * scale + offset). */
static struct columns coefficients(const struct norm *n, long channels, long fold) {
  const long columns = fold * channels;
  float *numbers = malloc(5 * columns * sizeof(float));
  const struct columns k = {numbers, numbers + columns, numbers + 2 * columns, numbers + 3 * columns, numbers + 4 * columns};
  for (long c = 0; c < channels; c++) {
    k.scale[c] = n->weight[c] * n->inverse_deviation[c];
    k.offset[c] = n->bias[c] - n->mean[c] * k.scale[c];
    k.mean[c] = n->mean[c];
  }
  for (long f = 1; f < fold; f++)
    for (long row = 0; row < 3; row++)
      memcpy(numbers + row * columns + f * channels, numbers + row * columns, channels * sizeof(float));
  return k;
}

/* The same for the backward pass, once the gradients of weight and bias are known:
 * the input's gradient = that of (x * scale + offset) * scale + (x - mean) * tilt + level. */
static struct columns backward_coefficients(const struct norm *n, long rows, long channels, long fold) {
  const struct columns k = coefficients(n, channels, fold);
  for (long f = 0; f < fold; f++)
    for (long c = 0; c < channels; c++) {
      k.tilt[f * channels + c] = -k.scale[c] * n->grad_weight[c] * n->inverse_deviation[c] / rows;
      k.level[f * channels + c] = -k.scale[c] * n->grad_bias[c] / rows;
    }
  return k;
}

/* Mean and 1 / deviation of the batch from the threads' sums of x and of its square; updates the running ones. */
static void finish_statistics(const struct norm *n, const double *moments, long threads, long fold, long rows,
                              long channels) {
  for (long c = 0; c < channels; c++) {
    double s = 0, q = 0;
    add_parts(&s, &q, moments, threads, fold, channels, c);
    const double mean = s / rows, variance = fmax(q / rows - mean * mean, 0);
    n->mean[c] = (float)mean;
    n->inverse_deviation[c] = (float)(1 / sqrt(variance + n->epsilon));
    n->running_mean[c] += n->momentum * (n->mean[c] - n->running_mean[c]);
    n->running_variance[c] += n->momentum * ((float)(variance * rows / (rows - 1)) - n->running_variance[c]);
  }
}

/* From the sums of (x - shift) and its square over `rows` rows to those of x and its square. */
static void shift_back(const float *shift, double *sum, double *square, long rows, long columns) {
  for (long c = 0; c < columns; c++) {
    square[c] += shift[c] * (2 * sum[c] + (double)rows * shift[c]);
    sum[c] += (double)rows * shift[c];
  }
}

static void measure(const number *x, const struct norm *n, long rows, long channels, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  double *moments = calloc(2 * threads * columns, sizeof(double));
  float *shift = malloc(columns * sizeof(float)); /* any number near the mean keeps the difference of squares exact */
  for (long c = 0; c < columns; c++) shift[c] = widen(x[c % channels]);
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = folded_rows * me / team, last = folded_rows * (me + 1) / team;
    double *sum = moments + 2 * me * columns;
    add_moments(x, shift, sum, sum + columns, first, last, columns);
    shift_back(shift, sum, sum + columns, last - first, columns);
  }
  finish_statistics(n, moments, threads, fold, rows, channels);
  free(moments);
  free(shift);
}

static void normalise_maps(const number *x, number *y, const struct norm *n, long rows, long channels, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  const struct columns k = coefficients(n, channels, fold);
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = folded_rows * me / team, last = folded_rows * (me + 1) / team;
    normalise(n->activation, x + first * columns, y + first * columns, k.scale, k.offset, last - first, columns);
  }
  free(k.scale);
}

/* y = activation(batch_norm(x)) with the batch's own mean and variance, which are mixed into the running ones. */
void norm_forward(const number *x, number *y, const struct norm *n, long rows, long channels, int threads) {
  measure(x, n, rows, channels, threads);
  normalise_maps(x, y, n, rows, channels, threads);
}

INLINE void add_gradient_sums_as(enum activation kind, const number *gradient, const number *x, struct columns k,
                                 double *sum, double *product, long first, long last, long columns) {
  float s[STRIP], q[STRIP];
  for (long row = first; row < last; row += BLOCK_ROWS) {
    const long end = row + BLOCK_ROWS < last ? row + BLOCK_ROWS : last;
    for (long from = 0; from < columns; from += STRIP) {
      const long width = columns - from < STRIP ? columns - from : STRIP;
      memset(s, 0, sizeof s);
      memset(q, 0, sizeof q);
      const float *restrict scale = k.scale + from, *restrict offset = k.offset + from, *restrict mean = k.mean + from;
      for (long r = row; r < end; r++) {
        const number *restrict in = x + r * columns + from, *restrict g = gradient + r * columns + from;
        for (long c = 0; c < width; c++) {
          const float value = widen(in[c]), d = widen(g[c]) * slope(kind, value * scale[c] + offset[c]);
          s[c] += d;
          q[c] += d * (value - mean[c]);
        }
      }
      for (long c = 0; c < width; c++) sum[from + c] += s[c], product[from + c] += q[c];
    }
  }
}

INLINE void input_gradient_as(enum activation kind, const number *gradient, const number *restrict x, number *out,
                              struct columns k, long rows, long columns) {
  const float *restrict scale = k.scale, *restrict offset = k.offset, *restrict mean = k.mean;
  const float *restrict tilt = k.tilt, *restrict level = k.level;
  for (long r = 0; r < rows; r++, x += columns, gradient += columns, out += columns)
#pragma GCC ivdep /* `out` is `gradient` or apart from it */
    for (long c = 0; c < columns; c++) {
      const float value = widen(x[c]), d = widen(gradient[c]) * slope(kind, value * scale[c] + offset[c]);
      out[c] = narrow(d * scale[c] + (value - mean[c]) * tilt[c] + level[c]);
    }
}

static void add_gradient_sums(enum activation kind, const number *gradient, const number *x, struct columns k,
                              double *sum, double *product, long first, long last, long columns) {
  FOR_EACH_KIND(add_gradient_sums_as, gradient, x, k, sum, product, first, last, columns)
}

static void input_gradient(enum activation kind, const number *gradient, const number *x, number *out, struct columns k,
                           long rows, long columns) {
  FOR_EACH_KIND(input_gradient_as, gradient, x, out, k, rows, columns)
}

static void finish_gradient_sums(const struct norm *n, const double *sums, long threads, long fold, long channels) {
  for (long c = 0; c < channels; c++) {
    double s = 0, q = 0;
    add_parts(&s, &q, sums, threads, fold, channels, c);
    n->grad_bias[c] = (float)s;
    n->grad_weight[c] = (float)(q * n->inverse_deviation[c]);
  }
}

static void parameter_gradients(const number *gradient, const number *x, const struct norm *n, long rows,
                                long channels, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  double *sums = calloc(2 * threads * columns, sizeof(double));
  const struct columns k = coefficients(n, channels, fold);
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    double *sum = sums + 2 * me * columns;
    add_gradient_sums(n->activation, gradient, x, k, sum, sum + columns, folded_rows * me / team,
                      folded_rows * (me + 1) / team, columns);
  }
  finish_gradient_sums(n, sums, threads, fold, channels);
  free(k.scale);
  free(sums);
}

/* `out` may be `gradient` itself. */
static void input_gradients(const number *gradient, const number *x, number *out, const struct norm *n, long rows,
                            long channels, int threads) {
  const long fold = rows_to_fold(rows, channels), columns = fold * channels, folded_rows = rows / fold;
  const struct columns k = backward_coefficients(n, rows, channels, fold);
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = folded_rows * me / team, last = folded_rows * (me + 1) / team, start = first * columns;
    input_gradient(n->activation, gradient + start, x + start, out + start, k, last - first, columns);
  }
  free(k.scale);
}

/* The gradients of norm_forward's x, weight and bias. */
void norm_backward(const number *gradient, const number *x, const struct norm *n, number *grad_x, long rows,
                   long channels, int threads) {
  parameter_gradients(gradient, x, n, rows, channels, threads);
  input_gradients(gradient, x, grad_x, n, rows, channels, threads);
}

/* The sums over the pixels of each image. */
void sums_of_pixels(const number *maps, float *sums, long images, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    float *restrict sum = memset(sums + n * channels, 0, channels * sizeof(float));
    for (long p = n * pixels; p < (n + 1) * pixels; p++)
      for (long c = 0; c < channels; c++) sum[c] += widen(maps[p * channels + c]);
  }
}

/* The gradient of a scale for each image and channel: the sums over pixels of the products of two maps. */
void sums_of_products(const number *a, const number *b, float *sums, long images, long pixels, long channels,
                      int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    float *restrict sum = memset(sums + n * channels, 0, channels * sizeof(float));
    for (long p = n * pixels; p < (n + 1) * pixels; p++)
      for (long c = 0; c < channels; c++) sum[c] += widen(a[p * channels + c]) * widen(b[p * channels + c]);
  }
}

/* out = maps * scale + level, with a scale and a level for each image and channel. */
void scale_and_lift(const number *maps, const float *scales, const float *levels, number *out, long images, long pixels,
                    long channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    const float *restrict scale = scales + n * channels, *restrict level = levels + n * channels;
    for (long p = n * pixels; p < (n + 1) * pixels; p++) {
      const number *restrict in = maps + p * channels;
      number *restrict to = out + p * channels;
      for (long c = 0; c < channels; c++) to[c] = narrow(widen(in[c]) * scale[c] + level[c]);
    }
  }
}

/* A 3x3 or 5x5 depthwise convolution between two batch-norms, 16 channels at a time, image after image and row after
 * row: what is between the norms stays in the cache, the maps outside are read and written in order. */

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

#define BAND_PIXELS 64 /* a few rows with so many are computed at a time */

struct depthwise {
  long images, height, width, channels, out_height, out_width, kernel, stride; /* at least 16 channels */
};

INLINE lanes load(const float *from) { return *(const lanes *)from; }
INLINE void store(float *to, lanes value) { *(lanes *)to = value; }

/* The same of a map. */
#ifdef BF16
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint32_t patterns __attribute__((vector_size(4 * LANES)));

INLINE lanes load_map(const number *from) {
  return (lanes)(__builtin_convertvector(*(const halves *)from, patterns) << 16);
}
INLINE void store_map(number *to, lanes value) {
  const patterns bits = (patterns)value;
  *(halves *)to = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, halves);
}
#else
INLINE lanes load_map(const number *from) { return load(from); }
INLINE void store_map(number *to, lanes value) { store(to, value); }
#endif

INLINE long count_blocks(long channels) { return (channels + LANES - 1) / LANES; }

/* The first channel of a block of 16: the last one overlaps those before it where channels are no multiple of 16. */
INLINE long first_channel(long block, long channels) {
  return (block + 1) * LANES <= channels ? block * LANES : channels - LANES;
}

/* The rows of a map that a band of the result depends on, block after block, each `span` pixels long: padded left and
 * right. A row is kept in slot row % count. */
struct window {
  float *slots, *zeros; /* a row of zeros is there, too */
  long count, size, span, padding;
};

static struct window make_window(const struct depthwise *d, long count) {
  const long padding = d->kernel / 2, span = d->width + 2 * padding, size = count_blocks(d->channels) * span * LANES;
  const long bytes = (count + 1) * size * sizeof(float);
  float *slots = memset(aligned_alloc(sizeof(lanes), bytes), 0, bytes);
  return (struct window){slots, slots + count * size, count, size, span, padding};
}

INLINE float *slot(struct window w, long row) { return w.slots + row % w.count * w.size; }
INLINE long rows_in_band(long width) { return (BAND_PIXELS + width - 1) / width; }

/* Copies a map's row into its slot, its pixels `apart` from one another. */
static void put(struct window w, long row, const number *pixels, long count, long apart, long channels) {
  float *to = slot(w, row) + w.padding * LANES;
  for (long x = 0; x < count; x++, pixels += channels, to += apart * LANES)
    for (long block = 0; block * LANES < channels; block++)
      store(to + block * w.span * LANES, load_map(pixels + first_channel(block, channels)));
}

/* (channels, 1, kernel, kernel) -> for each block its taps of 16 channels. */
static lanes *pack_weight(const float *weight, long channels, long taps) {
  const long blocks = count_blocks(channels);
  float *packed = aligned_alloc(sizeof(lanes), blocks * taps * sizeof(lanes));
  for (long block = 0; block < blocks; block++)
    for (long tap = 0; tap < taps; tap++)
      for (long lane = 0; lane < LANES; lane++)
        packed[(block * taps + tap) * LANES + lane] = weight[(first_channel(block, channels) + lane) * taps + tap];
  return (lanes *)packed;
}

/* Which of a kernel's rows are not over padding, `zeros`; in order. */
INLINE long inside(const float *const *rows, const float *zeros, long kernel, long *which) {
  long count = 0;
  for (long y = 0; y < kernel; y++)
    if (rows[y] != zeros) which[count++] = y;
  return count;
}

/* What some rows of the input add, by as many rows of the kernel, to a row of the result; what the first of them make is
 * kept in `partial` until the last. */
INLINE void filter_rows(long count, long kernel, const float *const *rows, const lanes *weight, float *partial,
                        number *out, int first, int last, const struct depthwise *d) {
  for (long x = 0; x < d->out_width; x++) {
    lanes total = {0};
    if (!first) total = load(partial + x * LANES);
#pragma GCC unroll 5
    for (long y = 0; y < count; y++)
#pragma GCC unroll 5
      for (long k = 0; k < kernel; k++) total += weight[y * kernel + k] * load(rows[y] + (x * d->stride + k) * LANES);
    if (last)
      store_map(out + x * d->channels, total);
    else
      store(partial + x * LANES, total);
  }
}

/* One row of the result for 16 channels, from the rows below the kernel. 9 numbers of a kernel stay in registers at once,
 * 25 do not. */
static void filter_row(const float *const *rows, const float *zeros, const lanes *weight, float *partial, number *out,
                       const struct depthwise *d) {
  if (d->kernel == 3) {
    filter_rows(3, 3, rows, weight, partial, out, 1, 1, d);
    return;
  }
  long which[5];
  const long count = inside(rows, zeros, 5, which);
  for (long i = 0; i < count; i++)
    filter_rows(1, 5, rows + which[i], weight + 5 * which[i], partial, out, i == 0, i == count - 1, d);
}

/* out = depthwise(activation(batch_norm(x))), or of x itself without a norm before; then the norm after it is given the
 * statistics of `out` and y = activation(batch_norm(out)). */
void depthwise_forward(const number *x, const struct norm *before, const float *weight, number *out,
                       const struct norm *after, number *y, const struct depthwise *d, int threads) {
  const long channels = d->channels, taps = d->kernel * d->kernel, out_row = d->out_width * channels;
  const long rows = d->images * d->out_height * d->out_width, band = rows_in_band(d->out_width);
  const long in_fold = rows_to_fold(d->width, channels), out_fold = rows_to_fold(d->out_width, channels);
  const long columns = out_fold * channels, in_lines = d->width / in_fold, out_lines = d->out_width / out_fold;
  struct columns k = {0};
  if (before) {
    measure(x, before, d->images * d->height * d->width, channels, threads);
    k = coefficients(before, channels, in_fold);
  }
  lanes *packed = pack_weight(weight, channels, taps);
  double *moments = calloc(2 * threads * columns, sizeof(double));
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const long first = d->images * me / team, last = d->images * (me + 1) / team;
    const struct window window = make_window(d, (band - 1) * d->stride + d->kernel);
    number *line = malloc(d->width * channels * sizeof(number));
    float *shift = calloc(columns, sizeof(float)), *partial = malloc(d->out_width * sizeof(lanes));
    double *sum = moments + 2 * me * columns;
    for (long n = first; n < last; n++) {
      const number *image = x + n * d->height * d->width * channels;
      number *result = out + n * d->out_height * out_row;
      for (long top = 0, end, ready = 0; top < d->out_height; top = end) {
        end = top + band < d->out_height ? top + band : d->out_height;
        for (; ready < d->height && ready < (end - 1) * d->stride - window.padding + d->kernel; ready++) {
          const number *pixels = image + ready * d->width * channels;
          if (before) normalise(before->activation, pixels, line, k.scale, k.offset, in_lines, in_fold * channels);
          put(window, ready, before ? line : pixels, d->width, 1, channels);
        }
        for (long block = 0; block * LANES < channels; block++)
          for (long y = top; y < end; y++) {
            const float *rows[5];
            for (long ky = 0; ky < d->kernel; ky++) {
              const long row = y * d->stride - window.padding + ky;
              rows[ky] = row < 0 || row >= d->height ? window.zeros : slot(window, row) + block * window.span * LANES;
            }
            number *to = result + y * out_row + first_channel(block, channels);
            filter_row(rows, window.zeros, packed + block * taps, partial, to, d);
          }
        if (n == first && top == 0)
          for (long c = 0; c < columns; c++) shift[c] = widen(result[c % channels]);
        add_moments(result, shift, sum, sum + columns, top * out_lines, end * out_lines, columns);
      }
    }
    shift_back(shift, sum, sum + columns, (last - first) * d->out_height * out_lines, columns);
    free(window.slots);
    free(line);
    free(shift);
    free(partial);
  }
  finish_statistics(after, moments, threads, out_fold, rows, channels);
  normalise_maps(out, y, after, rows, channels, threads);
  free(k.scale);
  free(packed);
  free(moments);
}

/* What some rows of gradients add, by as many rows of the kernel, to a row of the input's gradient, as filter_rows()
 * does, and to the weight's. */
INLINE void differentiate_rows(long count, long kernel, const float *const *rows, const lanes *weight, lanes *sums,
                               const number *input, float *partial, number *out, int first, int last,
                               const struct depthwise *d) {
  lanes sum[9] = {0};
  for (long x = 0; x < d->width; x++) {
    const lanes value = load_map(input + x * d->channels);
    lanes total = {0};
    if (!first) total = load(partial + x * LANES);
#pragma GCC unroll 5
    for (long y = 0; y < count; y++)
#pragma GCC unroll 5
      for (long k = 0; k < kernel; k++) {
        const lanes gradient = load(rows[y] + (x + kernel - 1 - k) * LANES);
        total += weight[y * kernel + k] * gradient;
        sum[y * kernel + k] += value * gradient;
      }
    if (last)
      store_map(out + x * d->channels, total);
    else
      store(partial + x * LANES, total);
  }
  for (long k = 0; k < count * kernel; k++) sums[k] += sum[k];
}

/* One row of the input's gradient for 16 channels, and that row's share of the weight's, as filter_row() goes. */
static void differentiate_row(const float *const *rows, const float *zeros, const lanes *weight, lanes *sums,
                              const number *input, float *partial, number *out, const struct depthwise *d) {
  if (d->kernel == 3) {
    differentiate_rows(3, 3, rows, weight, sums, input, partial, out, 1, 1, d);
    return;
  }
  long which[5];
  const long count = inside(rows, zeros, 5, which);
  for (long i = 0; i < count; i++) {
    const long tap = 5 * which[i];
    differentiate_rows(1, 5, rows + which[i], weight + tap, sums + tap, input, partial, out, i == 0, i == count - 1, d);
  }
}

/* The gradients of depthwise_forward's x, weight and both norms' parameters, from that of its y. */
void depthwise_backward(const number *gradient, const number *x, const struct norm *before, const float *weight,
                        const number *out, const struct norm *after, number *grad_x, float *grad_weight,
                        const struct depthwise *d, int threads) {
  const long channels = d->channels, taps = d->kernel * d->kernel, blocks = count_blocks(channels);
  const long row_size = d->width * channels, out_row = d->out_width * channels, padding = d->kernel / 2;
  const long rows = d->images * d->height * d->width, out_rows = d->images * d->out_height * d->out_width;
  const long band = rows_in_band(d->width);
  const long in_fold = rows_to_fold(d->width, channels), out_fold = rows_to_fold(d->out_width, channels);
  const long columns = in_fold * channels, in_lines = d->width / in_fold, out_lines = d->out_width / out_fold;
  parameter_gradients(gradient, out, after, out_rows, channels, threads);
  const struct columns k = backward_coefficients(after, out_rows, channels, out_fold);
  struct columns input = {0};
  if (before) input = coefficients(before, channels, in_fold);
  lanes *packed = pack_weight(weight, channels, taps);
  float *weight_sums = aligned_alloc(sizeof(lanes), threads * blocks * taps * sizeof(lanes));
  memset(weight_sums, 0, threads * blocks * taps * sizeof(lanes));
  double *norm_sums = calloc(2 * threads * columns, sizeof(double));
#pragma omp parallel num_threads(threads)
  {
    const long team = omp_get_num_threads(), me = omp_get_thread_num();
    const struct window window = make_window(d, band + d->kernel);
    number *lines = malloc(band * row_size * sizeof(number)), *out_line = malloc(out_row * sizeof(number));
    float *partial = malloc(d->width * sizeof(lanes));
    lanes *sums = (lanes *)weight_sums + me * blocks * taps;
    double *norm_sum = norm_sums + 2 * me * columns;
    for (long n = d->images * me / team; n < d->images * (me + 1) / team; n++) {
      const number *image = x + n * d->height * row_size;
      number *result = grad_x + n * d->height * row_size;
      for (long top = 0, end, ready = 0; top < d->height; top = end) {
        end = top + band < d->height ? top + band : d->height;
        for (; ready < d->out_height && ready <= (end - 1 + padding) / d->stride; ready++) {
          const long at = (n * d->out_height + ready) * out_row;
          input_gradient(after->activation, gradient + at, out + at, out_line, k, out_lines, out_fold * channels);
          put(window, ready, out_line, d->out_width, d->stride, channels);
        }
        const number *pixels = image + top * row_size;
        if (before) {
          normalise(before->activation, pixels, lines, input.scale, input.offset, (end - top) * in_lines, columns);
          pixels = lines;
        }
        for (long block = 0; block < blocks; block++)
          for (long y = top; y < end; y++) {
            const long channel = first_channel(block, channels);
            const float *rows[5];
            for (long ky = 0; ky < d->kernel; ky++) {
              const long strided = y + padding - ky, row = strided / d->stride;
              const int outside = strided < 0 || strided % d->stride || row >= d->out_height;
              rows[ky] = outside ? window.zeros : slot(window, row) + block * window.span * LANES;
            }
            differentiate_row(rows, window.zeros, packed + block * taps, sums + block * taps,
                              pixels + (y - top) * row_size + channel, partial, result + y * row_size + channel, d);
          }
        if (before)
          add_gradient_sums(before->activation, result, image, input, norm_sum, norm_sum + columns, top * in_lines,
                            end * in_lines, columns);
      }
    }
    free(window.slots);
    free(lines);
    free(out_line);
    free(partial);
  }
  for (long c = 0; c < channels; c++) {
    const long block = c / LANES, lane = c - first_channel(block, channels);
    for (long tap = 0; tap < taps; tap++) {
      float total = 0;
      for (long part = 0; part < threads; part++)
        total += weight_sums[((part * blocks + block) * taps + tap) * LANES + lane];
      grad_weight[c * taps + tap] = total;
    }
  }
  if (before) {
    finish_gradient_sums(before, norm_sums, threads, in_fold, channels);
    input_gradients(grad_x, x, grad_x, before, rows, channels, threads);
  }
  free(k.scale);
  free(input.scale);
  free(packed);
  free(weight_sums);
  free(norm_sums);
}
