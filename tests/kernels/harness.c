/* Every kernel over many shapes, for sanitizers and for processors that Python does not run on: test_harness.py.
 *
 *     harness             prints a line for each call: root mean square and mean of what it wrote
 *     harness FUNCTION    gives FUNCTION results that are one number too short, so that it writes past their ends
 *
 * All buffers are as long as the kernels may use, and not longer. Linked with --wrap for the functions that allocate, so
 * that each allocation can be made to fail.
 */
#include <math.h>
#include <stdio.h>

#include "common.h"

#define COUNT(array) (long)(sizeof(array) / sizeof *(array))

static const char *planted = "";

/* ---- Allocations that fail ---- */

static int armed;      /* whether allocations are counted */
static long remaining; /* that succeed before one fails; below 0 if it has */

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_aligned_alloc(size_t, size_t);

static int fails(void) { return armed && __atomic_fetch_sub(&remaining, 1, __ATOMIC_RELAXED) == 0; }

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return fails() ? NULL : __real_calloc(count, size); }
void *__wrap_aligned_alloc(size_t to, size_t size) { return fails() ? NULL : __real_aligned_alloc(to, size); }

/* ---- Buffers, freed after each case ---- */

static void *buffers[64];
static int used;

static void *buffer(long bytes) { return buffers[used++] = malloc(bytes); }

static void free_buffers(void) {
  while (used) free(buffers[--used]);
}

/* Between -2 and 2, the same on every processor. */
static float draw(void) {
  static uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return (float)(state >> 8) / (1 << 22) - 2;
}

static float *floats(long count) {
  float *made = buffer(count * sizeof *made);
  for (long i = 0; i < count; i++) made[i] = draw();
  return made;
}

static number *map(long count) {
  number *made = buffer(count * sizeof *made);
  for (long i = 0; i < count; i++) made[i] = narrow(draw());
  return made;
}

static float *float_result(long count, const char *function) {
  return buffer((count - !strcmp(function, planted)) * sizeof(float));
}

static number *map_result(long count, const char *function) {
  return buffer((count - !strcmp(function, planted)) * sizeof(number));
}

/* ---- Reports ---- */

static void print(double squares, double sum, long count) { printf(" %.6g %.6g", sqrt(squares / count), sum / count); }

static void print_floats(const float *values, long count) {
  double squares = 0, sum = 0;
  for (long i = 0; i < count; i++) squares += (double)values[i] * values[i], sum += values[i];
  print(squares, sum, count);
}

static void print_map(const number *values, long count) {
  double squares = 0, sum = 0;
  for (long i = 0; i < count; i++) squares += (double)widen(values[i]) * widen(values[i]), sum += widen(values[i]);
  print(squares, sum, count);
}

static void print_norm(const struct norm *n, long channels) {
  const float *all[] = {n->mean, n->running_mean, n->running_variance, n->grad_weight, n->grad_bias};
  for (long i = 0; i < COUNT(all); i++) print_floats(all[i], channels);
}

/* ---- The kernels ---- */

struct shape {
  long images, height, width, channels;
};

static struct norm norm_of(long channels, enum activation activation, const char *forward, const char *backward) {
  struct norm n = {.momentum = 0.1f, .epsilon = 1e-3f, .activation = activation};
  n.weight = floats(channels), n.bias = floats(channels);
  n.running_mean = floats(channels), n.running_variance = floats(channels);
  n.mean = float_result(channels, forward), n.inverse_deviation = float_result(channels, forward);
  n.grad_weight = float_result(channels, backward), n.grad_bias = float_result(channels, backward);
  return n;
}

static int norms(struct shape s, enum activation activation, int threads) {
  const long rows = s.images * s.height * s.width, count = rows * s.channels;
  const struct norm n = norm_of(s.channels, activation, "norm_forward", "norm_backward");
  const number *x = map(count), *gradient = map(count);
  number *y = map_result(count, "norm_forward"), *grad_x = map_result(count, "norm_backward");
  armed = remaining >= 0;
  const int failed = norm_forward(x, y, &n, rows, s.channels, threads) ||
                     norm_backward(gradient, x, &n, grad_x, rows, s.channels, threads);
  armed = 0;
  if (!failed) {
    printf("norm %ldx%ldx%ldx%ld %d:", s.images, s.height, s.width, s.channels, activation);
    print_map(y, count), print_map(grad_x, count), print_norm(&n, s.channels);
    printf("\n");
  }
  free_buffers();
  return failed;
}

static void squeezes(struct shape s, int threads) {
  const long pixels = s.height * s.width, sums = s.images * s.channels, count = sums * pixels;
  const number *a = map(count), *b = map(count);
  const float *scales = floats(sums), *levels = floats(sums);
  float *of_a = float_result(sums, "sums_of_pixels"), *of_both = float_result(sums, "sums_of_products");
  number *out = map_result(count, "scale_and_lift");
  sums_of_pixels(a, of_a, s.images, pixels, s.channels, threads);
  sums_of_products(a, b, of_both, s.images, pixels, s.channels, threads);
  scale_and_lift(a, scales, levels, out, s.images, pixels, s.channels, threads);
  printf("squeeze %ldx%ldx%ldx%ld:", s.images, s.height, s.width, s.channels);
  print_floats(of_a, sums), print_floats(of_both, sums), print_map(out, count);
  printf("\n");
  free_buffers();
}

static int depthwise(struct shape s, long kernel, long stride, enum activation activation, int expanded, int threads) {
  const struct depthwise d = {s.images, s.height, s.width, s.channels, (s.height - 1) / stride + 1,
                              (s.width - 1) / stride + 1, kernel, stride};
  const char *forward = "depthwise_forward", *backward = "depthwise_backward";
  const long count = s.images * s.height * s.width * s.channels;
  const long out_count = s.images * d.out_height * d.out_width * s.channels, taps = s.channels * kernel * kernel;
  const struct norm before = norm_of(s.channels, (activation + 1) % 4, forward, backward);
  const struct norm after = norm_of(s.channels, activation, forward, backward), *first = expanded ? &before : NULL;
  const number *x = map(count), *gradient = map(out_count);
  const float *weight = floats(taps);
  number *out = map_result(out_count, forward), *y = map_result(out_count, forward);
  number *grad_x = map_result(count, backward);
  float *grad_weight = float_result(taps, backward);
  armed = remaining >= 0;
  const int failed =
      depthwise_forward(x, first, weight, out, &after, y, &d, threads) ||
      depthwise_backward(gradient, x, first, weight, out, &after, grad_x, grad_weight, &d, threads);
  armed = 0;
  if (!failed) {
    printf("depthwise %ldx%ldx%ldx%ld %ld/%ld %d %d:", s.images, s.height, s.width, s.channels, kernel, stride,
           activation, expanded);
    print_map(y, out_count), print_map(grad_x, count), print_floats(grad_weight, taps), print_norm(&after, s.channels);
    if (expanded) print_norm(&before, s.channels);
    printf("\n");
  }
  free_buffers();
  return failed;
}

/* Lets each allocation fail in turn, until none is left; the call has to report it and, as a sanitizer sees, to free the
 * others. */
static void check_failures(const char *name, int (*call)(void)) {
  for (long successes = 0;; successes++) {
    remaining = successes;
    const int failed = call(), happened = remaining < 0;
    remaining = -1;
    if (failed != happened) {
      fprintf(stderr, "%s: allocation %ld failed and it returned %d\n", name, successes, failed);
      exit(1);
    }
    if (!happened) return;
  }
}

static int norm_once(void) { return norms((struct shape){2, 3, 3, 24}, RELU, 2); }
static int depthwise_once(void) { return depthwise((struct shape){2, 5, 5, 24}, 5, 1, RELU, 1, 2); }

int main(int count, char **arguments) {
  static const long channels[] = {1, 3, 8, 15, 16, 17, 24, 31, 40, 72, 100, 129, 200, 576, 960, 1280};
  static const long maps[][3] = {{1, 1, 2}, {2, 1, 1}, {2, 2, 1},   {1, 3, 3},   {3, 4, 4},
                                 {2, 5, 7}, {2, 8, 8}, {1, 16, 16}, {1, 70, 3}, {2, 57, 33}};
  if (count > 1) planted = arguments[1];
  remaining = -1;
  for (long m = 0, turn = 0; m < COUNT(maps); m++)
    for (long c = 0; c < COUNT(channels); c++, turn++) {
      const struct shape s = {maps[m][0], maps[m][1], maps[m][2], channels[c]};
      if (s.height * s.width * s.channels > 250000) continue; /* the widest layers have the smallest maps */
      norms(s, turn % 4, turn % 3 + 1);
      squeezes(s, turn % 3 + 1);
      for (long kernel = 3; kernel <= 5 && s.channels >= 16; kernel += 2)
        for (long stride = 1; stride <= 2; stride++, turn++)
          if (s.images > 1 || s.height > stride || s.width > stride) /* a norm needs two values of a channel */
            depthwise(s, kernel, stride, turn % 4, turn % 5 % 2, turn % 3 + 1);
    }
  check_failures("norms", norm_once);
  check_failures("depthwise", depthwise_once);
  return 0;
}
