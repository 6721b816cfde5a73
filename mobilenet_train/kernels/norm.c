/* Batch-norm with the batch's statistics, and the activation a after it, over m rows of each channel:
 *
 *     n = (x - mean) / sqrt(variance + epsilon)          y = a(weight * n + bias)
 *
 * and backward, with g the gradient of y and d = g * a'(weight * n + bias):
 *
 *     grad_bias = sum of d          grad_weight = sum of d * n
 *     grad_x = weight / sqrt(variance + epsilon) * (d - grad_bias / m - n * grad_weight / m)
 *
 * Each direction goes over the map twice: for the sums, and for the result.
 */
#include "norm.h"

#include <math.h>

#define BLOCK_ROWS 64 /* summed in float32 before they are added to the sum in float64 */
#define STRIP 256     /* columns whose sums stay in the first-level cache */

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

/* Compiles `function`, which is inlined, once for each activation. */
#define FOR_EACH_KIND(function, ...)                           \
  switch (kind) {                                              \
    case RELU: function(RELU, __VA_ARGS__); break;             \
    case RELU6: function(RELU6, __VA_ARGS__); break;           \
    case HARD_SWISH: function(HARD_SWISH, __VA_ARGS__); break; \
    default: function(NONE, __VA_ARGS__);                      \
  }

struct folded fold(long rows, long channels) {
  long factor = 1;
  while (factor < 16 && rows % (2 * factor) == 0 && 2 * factor * channels <= 1024) factor *= 2;
  return (struct folded){factor, rows / factor, factor * channels};
}

struct columns coefficients(const struct norm *n, long channels, long factor) {
  const long columns = factor * channels;
  float *at = malloc(5 * columns * sizeof *at);
  if (!at) return (struct columns){0};
  const struct columns k = {at, at + columns, at + 2 * columns, at + 3 * columns, at + 4 * columns};
  for (long c = 0; c < channels; c++) {
    k.scale[c] = n->weight[c] * n->inverse_deviation[c];
    k.offset[c] = n->bias[c] - n->mean[c] * k.scale[c];
    k.mean[c] = n->mean[c];
  }
  for (long row = 0; row < 3; row++)
    for (long f = 1; f < factor; f++)
      memcpy(at + row * columns + f * channels, at + row * columns, channels * sizeof *at);
  return k;
}

struct columns backward_coefficients(const struct norm *n, long rows, long channels, long factor) {
  const struct columns k = coefficients(n, channels, factor);
  for (long column = 0; k.scale && column < factor * channels; column++) {
    const long c = column % channels;
    k.tilt[column] = -k.scale[c] * n->grad_weight[c] * n->inverse_deviation[c] / rows;
    k.level[column] = -k.scale[c] * n->grad_bias[c] / rows;
  }
  return k;
}

INLINE void normalise_as(enum activation kind, const number *restrict x, number *restrict y, struct columns k,
                         long rows, long columns) {
  const float *restrict scale = k.scale, *restrict offset = k.offset;
  for (long r = 0; r < rows; r++, x += columns, y += columns)
    for (long c = 0; c < columns; c++) y[c] = narrow(activate(kind, widen(x[c]) * scale[c] + offset[c]));
}

void normalise(enum activation kind, const number *x, number *y, struct columns k, long rows, long columns) {
  FOR_EACH_KIND(normalise_as, x, y, k, rows, columns)
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

void input_gradient(enum activation kind, const number *gradient, const number *x, number *out, struct columns k,
                    long rows, long columns) {
  FOR_EACH_KIND(input_gradient_as, gradient, x, out, k, rows, columns)
}

/* Adds one row's share of a strip to the sums of d and d * (x - mean); without a gradient, d is (x - mean) itself. */
INLINE void add_row(enum activation kind, const number *restrict gradient, const number *restrict x, struct columns k,
                    long from, long width, float *restrict s, float *restrict q) {
  const float *restrict scale = k.scale + from, *restrict offset = k.offset + from, *restrict mean = k.mean + from;
  for (long c = 0; c < width; c++) {
    const float value = widen(x[c]), centred = value - mean[c];
    const float d = gradient ? widen(gradient[c]) * slope(kind, value * scale[c] + offset[c]) : centred;
    s[c] += d;
    q[c] += d * centred;
  }
}

INLINE void add_sums(enum activation kind, const number *gradient, const number *x, struct columns k, double *sum,
                     double *product, long first, long last, long columns) {
  float s[STRIP], q[STRIP];
  for (long row = first; row < last; row += BLOCK_ROWS) {
    const long end = least(row + BLOCK_ROWS, last);
    for (long from = 0; from < columns; from += STRIP) {
      const long width = least(STRIP, columns - from);
      memset(s, 0, sizeof s);
      memset(q, 0, sizeof q);
      for (long r = row; r < end; r++) {
        const long at = r * columns + from;
        add_row(kind, gradient ? gradient + at : NULL, x + at, k, from, width, s, q);
      }
      for (long c = 0; c < width; c++) sum[from + c] += s[c], product[from + c] += q[c];
    }
  }
}

void add_moments(const number *x, float *shift, double *sum, double *square, long first, long last, long columns) {
  const struct columns k = {shift, shift, shift, shift, shift};
  add_sums(NONE, NULL, x, k, sum, square, first, last, columns);
}

void add_gradient_sums(enum activation kind, const number *gradient, const number *x, struct columns k, double *sum,
                       double *product, long first, long last, long columns) {
  FOR_EACH_KIND(add_sums, gradient, x, k, sum, product, first, last, columns)
}

void shift_back(const float *shift, double *sum, double *square, long rows, long columns) {
  for (long c = 0; c < columns; c++) {
    square[c] += shift[c] * (2 * sum[c] + (double)rows * shift[c]);
    sum[c] += (double)rows * shift[c];
  }
}

/* Adds a channel's two sums over the threads (zeros where a thread did not start) and over folded rows. */
INLINE void add_parts(double *s, double *q, const double *sums, long threads, long factor, long channels,
                      long channel) {
  const long columns = factor * channels;
  for (long thread = 0; thread < threads; thread++)
    for (long column = channel; column < columns; column += channels) {
      *s += sums[2 * thread * columns + column];
      *q += sums[(2 * thread + 1) * columns + column];
    }
}

void finish_statistics(const struct norm *n, const double *sums, long threads, long factor, long rows, long channels) {
  for (long c = 0; c < channels; c++) {
    double s = 0, q = 0;
    add_parts(&s, &q, sums, threads, factor, channels, c);
    const double mean = s / rows, difference = q / rows - mean * mean;
    const double variance = difference < 0 ? 0 : difference; /* unlike fmax(), it keeps not-a-number */
    n->mean[c] = (float)mean;
    n->inverse_deviation[c] = (float)(1 / sqrt(variance + n->epsilon));
    n->running_mean[c] += n->momentum * (n->mean[c] - n->running_mean[c]);
    n->running_variance[c] += n->momentum * ((float)(variance * rows / (rows - 1)) - n->running_variance[c]);
  }
}

void finish_gradient_sums(const struct norm *n, const double *sums, long threads, long factor, long channels) {
  for (long c = 0; c < channels; c++) {
    double s = 0, q = 0;
    add_parts(&s, &q, sums, threads, factor, channels, c);
    n->grad_bias[c] = (float)s;
    n->grad_weight[c] = (float)(q * n->inverse_deviation[c]);
  }
}

int measure(const number *x, const struct norm *n, long rows, long channels, int threads) {
  const struct folded f = fold(rows, channels);
  double *sums = calloc(2 * threads * f.columns, sizeof *sums);
  float *shift = malloc(f.columns * sizeof *shift); /* a number near the mean keeps the difference of squares exact */
  const int failed = !sums || !shift;
  if (!failed) {
    for (long c = 0; c < f.columns; c++) shift[c] = widen(x[c % channels]);
#pragma omp parallel num_threads(threads)
    {
      const struct share share = share_of(f.rows);
      double *sum = sums + 2 * share.thread * f.columns, *square = sum + f.columns;
      add_moments(x, shift, sum, square, share.first, share.last, f.columns);
      shift_back(shift, sum, square, share.last - share.first, f.columns);
    }
    finish_statistics(n, sums, threads, f.factor, rows, channels);
  }
  free(sums);
  free(shift);
  return failed;
}

int normalise_maps(const number *x, number *y, const struct norm *n, long rows, long channels, int threads) {
  const struct folded f = fold(rows, channels);
  const struct columns k = coefficients(n, channels, f.factor);
  if (!k.scale) return 1;
#pragma omp parallel num_threads(threads)
  {
    const struct share share = share_of(f.rows);
    const long start = share.first * f.columns;
    normalise(n->activation, x + start, y + start, k, share.last - share.first, f.columns);
  }
  free(k.scale);
  return 0;
}

int norm_forward(const number *x, number *y, const struct norm *n, long rows, long channels, int threads) {
  return measure(x, n, rows, channels, threads) || normalise_maps(x, y, n, rows, channels, threads);
}

int parameter_gradients(const number *gradient, const number *x, const struct norm *n, long rows, long channels,
                        int threads) {
  const struct folded f = fold(rows, channels);
  const struct columns k = coefficients(n, channels, f.factor);
  double *sums = calloc(2 * threads * f.columns, sizeof *sums);
  const int failed = !k.scale || !sums;
  if (!failed) {
#pragma omp parallel num_threads(threads)
    {
      const struct share share = share_of(f.rows);
      double *sum = sums + 2 * share.thread * f.columns, *product = sum + f.columns;
      add_gradient_sums(n->activation, gradient, x, k, sum, product, share.first, share.last, f.columns);
    }
    finish_gradient_sums(n, sums, threads, f.factor, channels);
  }
  free(k.scale);
  free(sums);
  return failed;
}

int input_gradients(const number *gradient, const number *x, number *out, const struct norm *n, long rows,
                    long channels, int threads) {
  const struct folded f = fold(rows, channels);
  const struct columns k = backward_coefficients(n, rows, channels, f.factor);
  if (!k.scale) return 1;
#pragma omp parallel num_threads(threads)
  {
    const struct share share = share_of(f.rows);
    const long start = share.first * f.columns;
    input_gradient(n->activation, gradient + start, x + start, out + start, k, share.last - share.first, f.columns);
  }
  free(k.scale);
  return 0;
}

int norm_backward(const number *gradient, const number *x, const struct norm *n, number *grad_x, long rows,
                  long channels, int threads) {
  return parameter_gradients(gradient, x, n, rows, channels, threads) ||
         input_gradients(gradient, x, grad_x, n, rows, channels, threads);
}
