/* Squeeze-and-excite's passes over a map. All between them, on (images, channels), is left to torch. */
#include "common.h"

int sums_of_pixels(const number *maps, float *sums, long images, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    float *restrict sum = memset(sums + n * channels, 0, channels * sizeof(float));
    for (long p = n * pixels; p < (n + 1) * pixels; p++)
      for (long c = 0; c < channels; c++) sum[c] += widen(maps[p * channels + c]);
  }
  return 0;
}

int sums_of_products(const number *a, const number *b, float *sums, long images, long pixels, long channels,
                      int threads) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < images; n++) {
    float *restrict sum = memset(sums + n * channels, 0, channels * sizeof(float));
    for (long p = n * pixels; p < (n + 1) * pixels; p++)
      for (long c = 0; c < channels; c++) sum[c] += widen(a[p * channels + c]) * widen(b[p * channels + c]);
  }
  return 0;
}

int scale_and_lift(const number *maps, const float *scales, const float *levels, number *out, long images, long pixels,
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
  return 0;
}
