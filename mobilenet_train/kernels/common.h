/* What all kernels share, and the functions that bindings.py calls.
 *
 * The kernels do what PyTorch's own spend most of a training step on a CPU on without need: batch-norm with the
 * activation after it (norm.c), a depthwise convolution with the norms around it (depthwise.c), and
 * squeeze-and-excite (squeeze_excite.c).
 *
 * Maps are float32, or bfloat16 where BF16 is defined, in channels-last order: rows of `channels` numbers, one row a
 * pixel. All else is float32, and so is all arithmetic. Work is split over threads the same way every time and partial
 * sums are added in the order of threads, so results repeat to the last bit for a number of threads. OpenMP's functions
 * are torch's own: the library is not linked to another copy. The functions return 1 if there is no memory for them, and
 * 0 otherwise.
 */
#ifndef COMMON_H
#define COMMON_H

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

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

INLINE long least(long a, long b) { return a < b ? a : b; }

/* The pieces [first, last) of the work that are the calling thread's. */
struct share {
  long thread, first, last;
};

INLINE struct share share_of(long pieces) {
  const long team = omp_get_num_threads(), thread = omp_get_thread_num();
  return (struct share){thread, pieces * thread / team, pieces * (thread + 1) / team};
}

enum activation { NONE, RELU, RELU6, HARD_SWISH };

/* A batch-norm and the activation after it. */
struct norm {
  const float *weight, *bias;
  float *mean, *inverse_deviation; /* of the batch, from the forward pass */
  float *running_mean, *running_variance;
  float *grad_weight, *grad_bias; /* from the backward pass */
  float momentum, epsilon;
  enum activation activation;
};

/* A depthwise convolution of `channels`, at least 16, with windows of kernel x kernel and a halo of kernel / 2. */
struct depthwise {
  long images, height, width, channels, out_height, out_width, kernel, stride;
};

#pragma GCC visibility push(default) /* all else is hidden by the compiler's flags */

/* y = activation(batch_norm(x)) with the batch's own mean and variance, which are mixed into the running ones. */
int norm_forward(const number *x, number *y, const struct norm *n, long rows, long channels, int threads);

/* The gradients of norm_forward's x, weight and bias. */
int norm_backward(const number *gradient, const number *x, const struct norm *n, number *grad_x, long rows,
                  long channels, int threads);

/* out = depthwise(activation(batch_norm(x))), or of x itself where `before` is NULL; then the norm after it is given
 * the statistics of `out`, and y = activation(batch_norm(out)). */
int depthwise_forward(const number *x, const struct norm *before, const float *weight, number *out,
                      const struct norm *after, number *y, const struct depthwise *d, int threads);

/* The gradients of depthwise_forward's x, weight and both norms' parameters, from that of its y. */
int depthwise_backward(const number *gradient, const number *x, const struct norm *before, const float *weight,
                       const number *out, const struct norm *after, number *grad_x, float *grad_weight,
                       const struct depthwise *d, int threads);

/* The sums over the pixels of each image, (images, channels). */
int sums_of_pixels(const number *maps, float *sums, long images, long pixels, long channels, int threads);

/* The gradient of a scale for each image and channel: the sums over pixels of the products of two maps. */
int sums_of_products(const number *a, const number *b, float *sums, long images, long pixels, long channels,
                      int threads);

/* out = maps * scale + level, with a scale and a level for each image and channel. */
int scale_and_lift(const number *maps, const float *scales, const float *levels, number *out, long images, long pixels,
                    long channels, int threads);

#pragma GCC visibility pop
#endif
