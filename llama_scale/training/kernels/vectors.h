/* Vectors of as many 32-bit numbers as this processor's registers hold, by GCC's vector types, which GCC and Clang
   compile for any processor. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

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

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

INLINE float sum(vec v) {
    float lanes[W];
    memcpy(lanes, &v, sizeof v);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

INLINE float largest(vec v) {
    float lanes[W];
    memcpy(lanes, &v, sizeof v);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}
