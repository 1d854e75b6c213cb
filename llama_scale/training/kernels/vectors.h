/* Vectors of as many 32-bit numbers as this processor's registers hold, by GCC's vector types, which GCC and Clang
   compile for any processor. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { W = 16 };
#elif defined(__AVX2__) || defined(__AVX__)
enum { W = 8 };
#else
enum { W = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef int64_t size;

#define INLINE static inline __attribute__((always_inline))

INLINE size round_up(size n, size to) { return (n + to - 1) / to * to; }

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

/* The first `left` floats at p, the rest `otherwise`. */
INLINE vec load_part(const float *p, size left, float otherwise) {
    vec v = splat(otherwise);
    if (left >= W) return load(p);
    memcpy(&v, p, left * sizeof(float));
    return v;
}

INLINE vec choose(ivec which, vec yes, vec no) { return (vec)((which & (ivec)yes) | (~which & (ivec)no)); }

/* The larger in each lane, b's where one is not a number: an instruction that GCC does not find by itself. */
INLINE vec larger(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

/* Lanes that lie `apart` exchanged. */
INLINE vec crossed(vec v, int apart) {
    vec out;
    /* Unrolled, or GCC does not see that this is a shuffle; so too below. */
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) out[i] = v[i ^ apart];
    return out;
}

INLINE float sum(vec v) {
#pragma GCC unroll 4
    for (int apart = W / 2; apart; apart /= 2) v += crossed(v, apart);
    return v[0];
}

INLINE float largest(vec v) {
#pragma GCC unroll 4
    for (int apart = W / 2; apart; apart /= 2) v = larger(v, crossed(v, apart));
    return v[0];
}
