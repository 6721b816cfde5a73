/* A depthwise convolution between two batch-norms: 3x3 or 5x5 windows, stride 1 or 2, a halo of kernel / 2 zeros.
 *
 * In one direction (rows and columns are alike), for one channel, with a window's taps w, stride s and halo p:
 *
 *     out[i] = sum over k of w[k] * z[i * s + k - p]          z = activation(batch_norm(x)), or x itself
 *
 * Backward, with g the gradient of `out`: z[j] met the tap w[k] in out[(j + p - k) / s], where s divides j + p - k, so
 *
 *     grad_z[j] = sum over k of w[k] * g[(j + p - k) / s]
 *     grad_w[k] = sum over j of z[j] * g[(j + p - k) / s]
 *
 * and one walk over z, j by j, makes both of the same g. z, g and grad_z are never in memory as a whole: each thread
 * goes image after image, and within one band after band, with the rows that a band needs, of z forward and of g
 * backward, in a ring (ring.h). Backward, g's pixels lie `stride` columns apart there, with zeros between.
 *
 * Another window, say 7x7, takes a line in filter_row() and one in differentiate_row(), LARGEST, and KERNELS in
 * dispatch.py.
 */
#include "norm.h"
#include "ring.h"

#define LARGEST 5      /* window */
#define BAND_PIXELS 64 /* so many, in whole rows, are computed at a time */

INLINE long rows_in_band(long width) { return (BAND_PIXELS + width - 1) / width; }

/* (channels, 1, kernel, kernel) -> for each block its taps of 16 channels; NULL if there was no memory. */
static lanes *pack_weight(const float *weight, long channels, long taps) {
  const long blocks = count_blocks(channels);
  float *packed = aligned_alloc(sizeof(lanes), blocks * taps * sizeof(lanes));
  for (long block = 0; packed && block < blocks; block++)
    for (long tap = 0; tap < taps; tap++)
      for (long lane = 0; lane < LANES; lane++)
        packed[(block * taps + tap) * LANES + lane] = weight[(first_channel(block, channels) + lane) * taps + tap];
  return (lanes *)packed;
}

/* Which rows of a window are in the map, in order: at least one. */
INLINE long inside(const float *const *rows, const float *zeros, long kernel, long *which) {
  long count = 0;
  for (long y = 0; y < kernel; y++)
    if (rows[y] != zeros) which[count++] = y;
  return count;
}

/* What `count` rows of z add, by as many rows of the window, to a row of the result; what the first of them make is kept
 * in `partial` until the last. */
INLINE void filter_rows(long count, long kernel, const float *const *rows, const lanes *weight, float *partial,
                        number *out, int first, int last, const struct depthwise *d) {
  for (long x = 0; x < d->out_width; x++) {
    lanes total = {0};
    if (!first) total = load(partial + x * LANES);
#pragma GCC unroll 7
    for (long y = 0; y < count; y++)
#pragma GCC unroll 7
      for (long k = 0; k < kernel; k++) total += weight[y * kernel + k] * load(rows[y] + (x * d->stride + k) * LANES);
    if (last)
      store_map(out + x * d->channels, total);
    else
      store(partial + x * LANES, total);
  }
}

/* One row of the result for a block, from the rows in its windows. The 9 taps of a 3x3 window stay in registers at once;
 * larger windows are taken a row at a time. */
static void filter_row(const float *const *rows, const float *zeros, const lanes *weight, float *partial, number *out,
                       const struct depthwise *d) {
  if (d->kernel == 3) {
    filter_rows(3, 3, rows, weight, partial, out, 1, 1, d);
    return;
  }
  long which[LARGEST];
  const long count = inside(rows, zeros, d->kernel, which);
  for (long i = 0; i < count; i++) {
    const float *const *row = rows + which[i];
    const lanes *taps = weight + d->kernel * which[i];
    if (d->kernel == 5) filter_rows(1, 5, row, taps, partial, out, i == 0, i == count - 1, d);
  }
}

/* What the threads of a forward pass share. */
struct forward {
  const struct depthwise *shape;
  const number *x;
  const struct norm *before;
  struct columns k; /* of `before` */
  const lanes *weight;
  number *out;
  double *sums; /* of `out` and its square, each thread's after the one's before it */
};

/* What each has for itself. */
struct forward_thread {
  struct ring ring;
  number *line; /* a row of z */
  float *partial, *shift;
  double *sum;
};

/* Rows [top, end) of an image's result, whose input is in the ring. */
static void filter_band(const struct forward *f, const struct forward_thread *t, number *result, long top, long end) {
  const struct depthwise *d = f->shape;
  const struct ring ring = t->ring;
  for (long block = 0; block < count_blocks(d->channels); block++)
    for (long y = top; y < end; y++) {
      const float *rows[LARGEST];
      for (long k = 0; k < d->kernel; k++) {
        const long row = y * d->stride + k - ring.halo;
        rows[k] = row < 0 || row >= d->height ? ring.zeros : slot(ring, row) + block * ring.span * LANES;
      }
      number *to = result + y * d->out_width * d->channels + first_channel(block, d->channels);
      filter_row(rows, ring.zeros, f->weight + block * d->kernel * d->kernel, t->partial, to, d);
    }
}

/* One image's result, band after band, and its sums. The first pixel that a thread computes is its shift. */
static void filter_image(const struct forward *f, const struct forward_thread *t, long image, int first) {
  const struct depthwise *d = f->shape;
  const struct folded in = fold(d->width, d->channels), out = fold(d->out_width, d->channels);
  const long row_size = d->width * d->channels, band = rows_in_band(d->out_width);
  const number *map = f->x + image * d->height * row_size;
  number *result = f->out + image * d->out_height * d->out_width * d->channels;
  for (long top = 0, end, ready = 0; top < d->out_height; top = end) {
    end = least(top + band, d->out_height);
    for (; ready < least((end - 1) * d->stride + d->kernel - t->ring.halo, d->height); ready++) {
      const number *row = map + ready * row_size;
      if (f->before) normalise(f->before->activation, row, t->line, f->k, in.rows, in.columns);
      put(t->ring, ready, f->before ? t->line : row, d->width, 1, d->channels);
    }
    filter_band(f, t, result, top, end);
    if (first && top == 0)
      for (long c = 0; c < out.columns; c++) t->shift[c] = widen(result[c % d->channels]);
    add_moments(result, t->shift, t->sum, t->sum + out.columns, top * out.rows, end * out.rows, out.columns);
  }
}

/* A thread's share of the images. Returns 1 if there was no memory. */
static int filter_images(const struct forward *f, struct share share) {
  const struct depthwise *d = f->shape;
  const struct folded out = fold(d->out_width, d->channels);
  const struct forward_thread t = {
      .ring = make_ring(d, (rows_in_band(d->out_width) - 1) * d->stride + d->kernel),
      .line = malloc(d->width * d->channels * sizeof(number)),
      .partial = malloc(d->out_width * sizeof(lanes)),
      .shift = calloc(out.columns, sizeof(float)),
      .sum = f->sums + 2 * share.thread * out.columns,
  };
  const int failed = !t.ring.slots || !t.line || !t.partial || !t.shift;
  if (!failed) {
    for (long n = share.first; n < share.last; n++) filter_image(f, &t, n, n == share.first);
    const long rows = (share.last - share.first) * d->out_height * out.rows;
    shift_back(t.shift, t.sum, t.sum + out.columns, rows, out.columns);
  }
  free(t.ring.slots);
  free(t.line);
  free(t.partial);
  free(t.shift);
  return failed;
}

int depthwise_forward(const number *x, const struct norm *before, const float *weight, number *out,
                      const struct norm *after, number *y, const struct depthwise *d, int threads) {
  const long rows = d->images * d->out_height * d->out_width, channels = d->channels;
  const struct folded folded = fold(d->out_width, channels);
  if (before && measure(x, before, d->images * d->height * d->width, channels, threads)) return 1;
  struct columns k = {0};
  if (before) k = coefficients(before, channels, fold(d->width, channels).factor);
  lanes *packed = pack_weight(weight, channels, d->kernel * d->kernel);
  double *sums = calloc(2 * threads * folded.columns, sizeof *sums);
  int failed = (before && !k.scale) || !packed || !sums;
  if (!failed) {
    const struct forward f = {d, x, before, k, packed, out, sums};
#pragma omp parallel num_threads(threads) reduction(| : failed)
    failed |= filter_images(&f, share_of(d->images));
  }
  if (!failed) finish_statistics(after, sums, threads, folded.factor, rows, channels);
  free(k.scale);
  free(packed);
  free(sums);
  return failed || normalise_maps(out, y, after, rows, channels, threads);
}

/* What `count` rows of g add, by as many rows of the window, to a row of grad_z, as filter_rows() does, and to the
 * window's share of grad_w. */
INLINE void differentiate_rows(long count, long kernel, const float *const *rows, const lanes *weight, lanes *sums,
                               const number *z, float *partial, number *out, int first, int last,
                               const struct depthwise *d) {
  lanes sum[9] = {0};
  for (long x = 0; x < d->width; x++) {
    const lanes value = load_map(z + x * d->channels);
    lanes total = {0};
    if (!first) total = load(partial + x * LANES);
#pragma GCC unroll 7
    for (long y = 0; y < count; y++)
#pragma GCC unroll 7
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

/* One row of grad_z for a block, and that row's share of grad_w, as filter_row() goes. */
static void differentiate_row(const float *const *rows, const float *zeros, const lanes *weight, lanes *sums,
                              const number *z, float *partial, number *out, const struct depthwise *d) {
  if (d->kernel == 3) {
    differentiate_rows(3, 3, rows, weight, sums, z, partial, out, 1, 1, d);
    return;
  }
  long which[LARGEST];
  const long count = inside(rows, zeros, d->kernel, which);
  for (long i = 0; i < count; i++) {
    const float *const *row = rows + which[i];
    const long tap = d->kernel * which[i];
    if (d->kernel == 5)
      differentiate_rows(1, 5, row, weight + tap, sums + tap, z, partial, out, i == 0, i == count - 1, d);
  }
}

/* What the threads of a backward pass share. */
struct backward {
  const struct depthwise *shape;
  const number *gradient, *x, *out;
  const struct norm *before, *after;
  struct columns k_before, k_after;
  const lanes *weight;
  number *grad_x;
  lanes *weight_sums; /* grad_w, each thread's after the one's before it */
  double *norm_sums;  /* for `before`, likewise */
};

/* What each has for itself. */
struct backward_thread {
  struct ring ring;
  number *lines, *line; /* a band of z, a row of g */
  float *partial;
  lanes *weight_sum;
  double *norm_sum;
};

/* Rows [top, end) of an image's grad_z, whose g is in the ring, from the same rows of z. */
static void differentiate_band(const struct backward *b, const struct backward_thread *t, const number *z,
                               number *result, long top, long end) {
  const struct depthwise *d = b->shape;
  const struct ring ring = t->ring;
  const long row_size = d->width * d->channels;
  for (long block = 0; block < count_blocks(d->channels); block++)
    for (long y = top; y < end; y++) {
      const float *rows[LARGEST];
      for (long k = 0; k < d->kernel; k++) {
        const long strided = y + ring.halo - k, row = strided / d->stride;
        const int outside = strided < 0 || strided % d->stride || row >= d->out_height;
        rows[k] = outside ? ring.zeros : slot(ring, row) + block * ring.span * LANES;
      }
      const long channel = first_channel(block, d->channels), taps = block * d->kernel * d->kernel;
      differentiate_row(rows, ring.zeros, b->weight + taps, t->weight_sum + taps, z + (y - top) * row_size + channel,
                        t->partial, result + y * row_size + channel, d);
    }
}

/* One image's grad_z, in the place of grad_x, band after band. */
static void differentiate_image(const struct backward *b, const struct backward_thread *t, long image) {
  const struct depthwise *d = b->shape;
  const struct folded in = fold(d->width, d->channels), out = fold(d->out_width, d->channels);
  const long row_size = d->width * d->channels, out_size = d->out_width * d->channels, band = rows_in_band(d->width);
  const number *map = b->x + image * d->height * row_size;
  number *result = b->grad_x + image * d->height * row_size;
  for (long top = 0, end, ready = 0; top < d->height; top = end) {
    end = least(top + band, d->height);
    for (; ready < least((end - 1 + t->ring.halo) / d->stride + 1, d->out_height); ready++) {
      const long at = (image * d->out_height + ready) * out_size;
      input_gradient(b->after->activation, b->gradient + at, b->out + at, t->line, b->k_after, out.rows, out.columns);
      put(t->ring, ready, t->line, d->out_width, d->stride, d->channels);
    }
    const number *z = map + top * row_size;
    if (b->before) normalise(b->before->activation, z, t->lines, b->k_before, (end - top) * in.rows, in.columns);
    differentiate_band(b, t, b->before ? t->lines : z, result, top, end);
    if (b->before)
      add_gradient_sums(b->before->activation, result, map, b->k_before, t->norm_sum, t->norm_sum + in.columns,
                        top * in.rows, end * in.rows, in.columns);
  }
}

/* A thread's share of the images. Returns 1 if there was no memory. */
static int differentiate_images(const struct backward *b, struct share share) {
  const struct depthwise *d = b->shape;
  const long band = rows_in_band(d->width), row_size = d->width * d->channels;
  const struct backward_thread t = {
      .ring = make_ring(d, band + d->kernel),
      .lines = malloc(band * row_size * sizeof(number)),
      .line = malloc(d->out_width * d->channels * sizeof(number)),
      .partial = malloc(d->width * sizeof(lanes)),
      .weight_sum = b->weight_sums + share.thread * count_blocks(d->channels) * d->kernel * d->kernel,
      .norm_sum = b->norm_sums + 2 * share.thread * fold(d->width, d->channels).columns,
  };
  const int failed = !t.ring.slots || !t.lines || !t.line || !t.partial;
  for (long n = share.first; !failed && n < share.last; n++) differentiate_image(b, &t, n);
  free(t.ring.slots);
  free(t.lines);
  free(t.line);
  free(t.partial);
  return failed;
}

/* The threads' sums for blocks of 16 channels -> (channels, 1, kernel, kernel). */
static void finish_weight(const lanes *weight_sums, float *grad_weight, long channels, long taps, long threads) {
  const float *sums = (const float *)weight_sums;
  const long blocks = count_blocks(channels);
  for (long c = 0; c < channels; c++) {
    const long block = c / LANES, lane = c - first_channel(block, channels);
    for (long tap = 0; tap < taps; tap++) {
      float total = 0;
      for (long thread = 0; thread < threads; thread++)
        total += sums[((thread * blocks + block) * taps + tap) * LANES + lane];
      grad_weight[c * taps + tap] = total;
    }
  }
}

int depthwise_backward(const number *gradient, const number *x, const struct norm *before, const float *weight,
                       const number *out, const struct norm *after, number *grad_x, float *grad_weight,
                       const struct depthwise *d, int threads) {
  const long channels = d->channels, taps = d->kernel * d->kernel, all_taps = threads * count_blocks(channels) * taps;
  const long rows = d->images * d->height * d->width, out_rows = d->images * d->out_height * d->out_width;
  const struct folded in = fold(d->width, channels), folded = fold(d->out_width, channels);
  if (parameter_gradients(gradient, out, after, out_rows, channels, threads)) return 1;
  const struct columns k_after = backward_coefficients(after, out_rows, channels, folded.factor);
  struct columns k_before = {0};
  if (before) k_before = coefficients(before, channels, in.factor);
  lanes *packed = pack_weight(weight, channels, taps);
  lanes *weight_sums = aligned_alloc(sizeof(lanes), all_taps * sizeof(lanes));
  double *norm_sums = calloc(2 * threads * in.columns, sizeof *norm_sums);
  int failed = !k_after.scale || (before && !k_before.scale) || !packed || !weight_sums || !norm_sums;
  if (!failed) {
    const struct backward b = {d,       gradient, x,      out,    before,      after,
                               k_before, k_after, packed, grad_x, weight_sums, norm_sums};
    memset(weight_sums, 0, all_taps * sizeof(lanes));
#pragma omp parallel num_threads(threads) reduction(| : failed)
    failed |= differentiate_images(&b, share_of(d->images));
  }
  if (!failed) finish_weight(weight_sums, grad_weight, channels, taps, threads);
  if (!failed && before) finish_gradient_sums(before, norm_sums, threads, in.factor, channels);
  free(k_after.scale);
  free(k_before.scale);
  free(packed);
  free(weight_sums);
  free(norm_sums);
  return failed || (before && input_gradients(grad_x, x, grad_x, before, rows, channels, threads));
}
