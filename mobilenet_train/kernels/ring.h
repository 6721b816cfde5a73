/* The rows of a map that a depthwise convolution depends on, 16 channels at a time.
 *
 * A band of rows of the result is computed at once. The rows under its windows are kept in a ring, `count` slots in
 * which row r of the map has slot r % count, so that a row is copied once though several bands need it. Here windows of
 * 3x3 at stride 1 go over a map 4 wide and 10 high, in bands of 2 rows, which takes 4 slots. Next are rows 4 and 5 of
 * the result; rows 5 and 6 of the map have just taken the slots of 1 and 2, which no window needs any more:
 *
 *          row of the map   slot                     windows of rows
 *                                  halo     halo       4     5
 *                4            0     0 z z z z 0        |     |
 *                5            1     0 z z z z 0        |     |
 *                6            2     0 z z z z 0              |
 *                3            3     0 z z z z 0        |
 *           outside the map         0 0 0 0 0 0     `zeros`, the halo above and below
 *
 * In a slot a row lies block after block of 16 channels, each block `span` pixels long with its halo, so that the pixels
 * of a window follow one another.
 */
#ifndef RING_H
#define RING_H

#include "common.h"

#define LANES 16 /* channels computed at once */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

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

/* The first channel of a block: the last block overlaps the one before it where channels are no multiple of 16. */
INLINE long first_channel(long block, long channels) { return least(block * LANES, channels - LANES); }

struct ring {
  float *slots, *zeros; /* NULL if there was no memory */
  long count, size, span, halo;
};

static struct ring make_ring(const struct depthwise *d, long count) {
  const long halo = d->kernel / 2, span = d->width + 2 * halo, size = count_blocks(d->channels) * span * LANES;
  const long bytes = (count + 1) * size * sizeof(float);
  float *slots = aligned_alloc(sizeof(lanes), bytes);
  if (!slots) return (struct ring){0};
  return (struct ring){memset(slots, 0, bytes), slots + count * size, count, size, span, halo};
}

INLINE float *slot(struct ring ring, long row) { return ring.slots + row % ring.count * ring.size; }

/* Copies a row of a map into its slot, its pixels `apart` from one another. */
static void put(struct ring ring, long row, const number *pixels, long count, long apart, long channels) {
  float *to = slot(ring, row) + ring.halo * LANES;
  for (long x = 0; x < count; x++, pixels += channels, to += apart * LANES)
    for (long block = 0; block * LANES < channels; block++)
      store(to + block * ring.span * LANES, load_map(pixels + first_channel(block, channels)));
}

#endif
