/* What depthwise.c takes from norm.c: the passes of a batch-norm, over all rows or over a few. */
#ifndef NORM_H
#define NORM_H

#include "common.h"

/* Narrow rows are taken several at a time, as one row of more columns, so that vectors are full. */
struct folded {
  long factor, rows, columns;
};

struct folded fold(long rows, long channels);

/* What the passes need of each column; five rows of numbers, beginning at `scale`, which is to be freed and is NULL if
 * there was no memory. */
struct columns {
  float *scale, *offset, *mean, *tilt, *level;
};

/* For the forward pass: y = activation(x * scale + offset). */
struct columns coefficients(const struct norm *n, long channels, long factor);

/* For the backward pass too, once the gradients of weight and bias are known:
 * grad_x = d * scale + (x - mean) * tilt + level, d being the gradient of x * scale + offset. */
struct columns backward_coefficients(const struct norm *n, long rows, long channels, long factor);

/* Over rows of `columns` numbers. */
void normalise(enum activation kind, const number *x, number *y, struct columns k, long rows, long columns);
void input_gradient(enum activation kind, const number *gradient, const number *x, number *out, struct columns k,
                    long rows, long columns);

/* Add to two sums those of rows [first, last): of (x - shift) and its square; of d and d * (x - mean). */
void add_moments(const number *x, float *shift, double *sum, double *square, long first, long last, long columns);
void add_gradient_sums(enum activation kind, const number *gradient, const number *x, struct columns k, double *sum,
                       double *product, long first, long last, long columns);

/* From the sums of (x - shift) and its square over `rows` rows to those of x and its square. */
void shift_back(const float *shift, double *sum, double *square, long rows, long columns);

/* From the threads' two sums, row after row in `sums`: mean and 1 / deviation of the batch, which move the running
 * statistics; the gradients of weight and bias. */
void finish_statistics(const struct norm *n, const double *sums, long threads, long factor, long rows, long channels);
void finish_gradient_sums(const struct norm *n, const double *sums, long threads, long factor, long channels);

/* The same over all rows of a map, each with its memory and threads. `out` may be `gradient` itself. */
int measure(const number *x, const struct norm *n, long rows, long channels, int threads);
int normalise_maps(const number *x, number *y, const struct norm *n, long rows, long channels, int threads);
int parameter_gradients(const number *gradient, const number *x, const struct norm *n, long rows, long channels,
                        int threads);
int input_gradients(const number *gradient, const number *x, number *out, const struct norm *n, long rows,
                    long channels, int threads);

#endif
