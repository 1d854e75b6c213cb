/* What products of matrices share, whether of floats or of integers, of whole matrices or in attention. */

#pragma once

#include "vectors.h"

enum { HIGH = W == 16 ? 12 : W == 8 ? 6 : 4, WIDE = 2 * W }; /* a tile, whose sums fill most registers; HIGH <= W */
enum { STRIP = W == 16 ? 512 : 256 }; /* columns of b at a time: their copies stay in the second cache */

INLINE size least(size a, size b) { return a < b ? a : b; }

INLINE size blocks_of(size k, size depth) { return (k + depth - 1) / depth; }

/* Terms of a block where k is cut evenly into blocks of up to `most`: a multiple of `step`. */
INLINE size depth_of(size k, size most, size step) { return round_up(blocks_of(k, blocks_of(k, most)), step); }

/* GCC would read b from memory in each multiply-add, for which there are too few load units. */
INLINE vec in_register(vec v) {
#if defined(__x86_64__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* c [high, vectors W] = a b, or c += a b. a's rows lie a_row apart, its columns a_step; `high` and `vectors` are
   constants. */
INLINE void tile(float *c, size c_row, const float *a, size a_row, size a_step, const float *b, size b_row,
                 size depth, int high, int vectors, int add) {
    vec sums[HIGH][2];
    for (int r = 0; r < high; r++)
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(c + r * c_row + v * W, 1);
            sums[r][v] = splat(0);
        }
    for (size i = 0; i < depth; i++) {
        vec right[2];
        for (int v = 0; v < vectors; v++) right[v] = in_register(load(b + i * b_row + v * W));
        for (int r = 0; r < high; r++) {
            vec left = splat(a[r * a_row + i * a_step]);
            for (int v = 0; v < vectors; v++) sums[r][v] += left * right[v];
        }
    }
    /* Unrolled, or sums are kept in memory to be indexed. */
#pragma GCC unroll 16
    for (int r = 0; r < high; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * c_row + v * W;
            store(to, add ? load(to) + sums[r][v] : sums[r][v]);
        }
}

/* The part of a tile that lies in c, where not all of it does. */
INLINE void copy_part(float *c, size c_row, const float *from, size rows, size columns, int add) {
    for (size r = 0; r < rows; r++)
        for (size j = 0; j < columns; j++) c[r * c_row + j] = from[r * WIDE + j] + (add ? c[r * c_row + j] : 0);
}
