/* Products of whole matrices by integers of 16 or 8 bits: twice as many multiply-adds an instruction as in 32-bit
   floats or, by AVX-512 VNNI alone, four times. Elsewhere bytes are widened first, which takes longer than 16 bits.

   The sum over k is cut into blocks of up to DEPTH terms. In a block each row of a and each column of b is rounded to
   whole multiples of a unit of its own, and sums of products are exact in any order.
   - In 16 bits NORM units are its norm: so no number leaves 16 bits and, by Cauchy and Schwarz, no sum of products 32.
     Rounding errs by up to 2e-4 of the norm (sqrt(512 / 12) / 32,766) whatever the numbers are, an eighth of what bf16
     does. Das et al. 2018 (arXiv 1802.00930) train by 16-bit integers with one unit a tensor. Norms are to lie between
     1e-34 and 1e34: lesser ones count as zero.
   - In 8 bits MOST units are its largest number, which is to lie between 4e-37 and 5e33, and no sum can leave 32 bits.
     Processors multiply bytes that have a sign by bytes that have none: b's are RAISED, and sums of a row of a begin
     where what that adds is undone.

   Operands are copied first: a in panels of HIGH rows, whose numbers are broadcast, b in panels of WIDE columns. A
   32-bit lane holds 2 or 4 terms, W apart: terms may come in any order that a and b share, and this one needs no
   shuffling. `bits` is a constant wherever it is passed on. */

#include "products.h"

enum { DEPTH = 512 };
enum { RAISED = 128 };
enum { TOGETHER = 4 }; /* vectors side by side when columns are copied */
enum { AHEAD = 16 };   /* rows asked for before they are read: they lie too far apart to be guessed */

typedef uint32_t uvec __attribute__((vector_size(4 * W)));
typedef int16_t halves __attribute__((vector_size(4 * W)));

INLINE int terms_of(int bits) { return 32 / bits; }

/* Lanes of a row of a, or of a column of b. */
INLINE size lanes_of(int bits) { return DEPTH / terms_of(bits); }

/* Lanes of a panel of a, with room for what the last vector spills. */
INLINE size panel_of(int bits) { return HIGH * lanes_of(bits) + W; }

/* The copy of an operand's block: for each row or column what its integers are worth and, in 8 bits for each row of
   a, where its sums begin. */
typedef struct {
    int32_t *numbers, *starts;
    float *units;
} operand;

INLINE ivec integers(int32_t x) { return x - (ivec){0}; }

INLINE ivec load_integers(const int32_t *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store_integers(int32_t *p, ivec v) { memcpy(p, &v, sizeof v); }

INLINE ivec larger_integers(ivec a, ivec b) {
#if defined(__AVX512F__)
    return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (ivec)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return (ivec)choose(a > b, (vec)a, (vec)b);
#endif
}

/* ---- sums of products ---- */

/* sums += the products of both 16-bit numbers of each lane; what NaN was rounded to may wrap around. */
INLINE ivec add_pairs(ivec sums, ivec a, ivec b) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    uvec products = (uvec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    uvec products = (uvec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && !defined(__AVX__)
    uvec products = (uvec)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    uvec products = (uvec)(a << 16 >> 16) * (uvec)(b << 16 >> 16) + (uvec)(a >> 16) * (uvec)(b >> 16);
#endif
#if !defined(__AVX512VNNI__)
    return (ivec)((uvec)sums + products);
#endif
}

/* sums += the products of all terms of each lane; in 8 bits b's have no sign. */
INLINE ivec add_products(ivec sums, ivec a, ivec b, int bits) {
    if (bits == 16) return add_pairs(sums, a, b);
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)b, (__m512i)a);
#else
    ivec even = (ivec)((halves)a << 8 >> 8), odd = (ivec)((halves)a >> 8);
    return add_pairs(add_pairs(sums, even, b & 0x00ff00ff), odd, (ivec)((uvec)b >> 8) & 0x00ff00ff);
#endif
}

/* The sums of each lane's terms, of 8 bits. */
INLINE ivec add_terms(ivec sums, ivec a) { return add_products(sums, a, integers(0x01010101), 8); }

/* ---- from floats to integers ---- */

static const float NORM = 32766.0f; /* in units; one less than 16 bits hold, for rounding */
static const float MOST = 127.0f;

/* What the unit is made of, with x: the sum of squares or the largest number. As integers NaN is above all others. */
INLINE vec measured(vec so_far, vec x, int bits) {
    return bits == 16 ? so_far + x * x : (vec)larger_integers((ivec)so_far, (ivec)x & 0x7fffffff);
}

INLINE float measured_in_all(vec lanes, int bits) {
    if (bits == 16) return sum(lanes);
#pragma GCC unroll 4
    for (int apart = W / 2; apart; apart /= 2)
        lanes = (vec)larger_integers((ivec)lanes, (ivec)crossed(lanes, apart));
    return lanes[0];
}

/* The unit of n numbers `step` apart that were measured; NaN if one is, not finite if one is not. */
INLINE float unit_of(float found, const float *x, size step, size n, int bits) {
    if (bits == 8) return found / MOST;
    if ((found > 1e-30f && found < 1e37f) || found != found) return sqrtf(found) / NORM;
    float most = 0; /* squares of such numbers vanish or overflow: bound the norm, if less closely */
    for (size i = 0; i < n; i++) most = fabsf(x[i * step]) > most ? fabsf(x[i * step]) : most;
    return most / NORM * sqrtf((float)n);
}

INLINE float inverse_of(float unit) {
    float inverse = 1.0f / unit;
    return isinf(inverse) ? 0 : inverse;
}

/* The last 16 bits are those of round(x inverse) + raised: 1.5 x 2^23 leaves no bits for a fraction. */
INLINE ivec rounded(vec x, vec inverse, int raised) { return (ivec)(x * inverse + (12582912.0f + raised)); }

/* A lane with its t-th term. */
INLINE ivec with_term(ivec lane, ivec term, int t, int bits) {
    int is_last = t + 1 == terms_of(bits);
    return lane | (is_last ? term : term & ((1 << bits) - 1)) << t * bits;
}

/* Lanes of the first `left` of a vector of lanes' numbers, zeros after them. */
INLINE ivec lanes_at(const float *x, size left, vec inverse, int raised, int bits) {
    ivec lanes = integers(0);
#pragma GCC unroll 4
    for (int t = 0; t < terms_of(bits); t++) {
        vec numbers = left > t * W ? load_part(x + t * W, left - t * W, 0) : splat(0);
        lanes = with_term(lanes, rounded(numbers, inverse, raised), t, bits);
    }
    return lanes;
}

INLINE float unit_of_row(const float *x, size x_row, size n, int bits) {
    vec found = splat(0);
    for (size i = 0; i < n; i += W) {
        __builtin_prefetch(x + x_row + i);
        found = measured(found, load_part(x + i, n - i, 0), bits);
    }
    return unit_of(measured_in_all(found, bits), x, 1, n, bits);
}

/* n <= DEPTH numbers of each row of x [rows, n], to rows of lanes. */
INLINE void copy_rows(operand to, const float *x, size x_row, size rows, size n, int bits) {
    size step = terms_of(bits) * W;
    for (size r = 0; r < rows; r++, x += x_row) {
        to.units[r] = unit_of_row(x, x_row, n, bits);
        vec inverse = splat(inverse_of(to.units[r]));
        ivec terms = integers(0);
        for (size i = 0; i < n; i += step) {
            ivec lanes = lanes_at(x + i, n - i, inverse, 0, bits);
            store_integers(to.numbers + r * lanes_of(bits) + i / terms_of(bits), lanes);
            if (bits == 8) terms = add_terms(terms, lanes);
        }
        if (bits == 8) {
            to.starts[r] = 0;
            for (int i = 0; i < W; i++) to.starts[r] -= RAISED * terms[i];
        }
    }
}

/* n <= DEPTH numbers of each of up to WIDE rows of x [rows, n], to columns of a panel. */
INLINE void turn_rows(operand to, const float *x, size x_row, size rows, size n, int bits) {
    size step = terms_of(bits) * W;
    for (size first = 0; first < rows; first += W, x += W * x_row) {
        size some = least(W, rows - first);
        float inverse[W];
        for (size r = 0; r < some; r++) {
            to.units[first + r] = unit_of_row(x + r * x_row, x_row, n, bits);
            inverse[r] = inverse_of(to.units[first + r]);
        }
        for (size i = 0; i < n; i += step) {
            int32_t square[W][W]; /* beyond `some` is what happens to lie there, for columns that nobody reads */
            for (size r = 0; r < some; r++)
                store_integers(square[r], lanes_at(x + r * x_row + i, n - i, splat(inverse[r]),
                                                   bits == 8 ? RAISED : 0, bits));
            for (size p = 0; p < W; p++)
                for (size r = 0; r < W; r++)
                    to.numbers[(i / terms_of(bits) + p) * WIDE + first + r] = square[r][p];
        }
    }
}

/* n <= DEPTH numbers of up to TOGETHER x `lanes` columns of x [n, columns], to panels of `wide` columns, `panel`
   lanes apart. Whole vectors are read and written: lanes beyond `lanes` are written over by the next. */
INLINE void copy_vectors(operand to, size panel, size wide, size lanes, const float *x, size x_row, size columns,
                         size n, int raised, int bits) {
    vec found[TOGETHER], inverse[TOGETHER];
    ivec terms[TOGETHER];
    for (int v = 0; v < TOGETHER; v++) found[v] = splat(0), terms[v] = integers(0);
    for (size i = 0; i < n; i++)
        for (int v = 0; v < TOGETHER; v++) {
            const float *numbers = x + i * x_row + v * lanes;
            __builtin_prefetch(numbers + AHEAD * x_row);
            found[v] = measured(found[v], load(numbers), bits);
        }
    for (int v = 0; v < TOGETHER; v++)
        for (size i = 0; i < W; i++) {
            size column = v * lanes + i;
            int is_own = i < lanes && column < columns;
            float unit = is_own ? unit_of(found[v][i], x + column, x_row, n, bits) : 0;
            inverse[v][i] = inverse_of(unit);
            if (is_own) to.units[column] = unit;
        }
    for (size first = 0; first < n; first += terms_of(bits) * W)
        for (size i = first; i < first + W; i++)
            for (int v = 0; v < TOGETHER; v++) {
                size column = v * lanes, row = first / terms_of(bits) + i - first;
                ivec out = integers(0);
#pragma GCC unroll 4
                for (int t = 0; t < terms_of(bits); t++)
                    if (i + t * W < n) {
                        vec numbers = load(x + (i + t * W) * x_row + column);
                        out = with_term(out, rounded(numbers, inverse[v], raised), t, bits);
                    }
                if (bits == 8 && !raised) terms[v] = add_terms(terms[v], out);
                store_integers(to.numbers + column / wide * panel + row * wide + column % wide, out);
            }
    if (bits == 8 && !raised)
        for (int v = 0; v < TOGETHER; v++)
            for (size i = 0; i < least(lanes, columns - v * lanes); i++)
                to.starts[v * lanes + i] = -RAISED * terms[v][i];
}

/* n <= DEPTH numbers of each column of x [n, columns], to panels of `wide` columns, by vectors of `lanes` columns. */
INLINE void copy_columns(operand to, size panel, size wide, size lanes, const float *x, size x_row, size columns,
                         size n, int raised, int bits) {
    enum { ROW = TOGETHER * W };
    for (size at = 0; at < columns; at += TOGETHER * lanes) {
        operand out = {to.numbers + at / wide * panel, to.starts + at, to.units + at};
        if (at + (TOGETHER - 1) * lanes + W <= columns) {
            copy_vectors(out, panel, wide, lanes, x + at, x_row, columns - at, n, raised, bits);
            continue;
        }
        float padded[DEPTH * ROW];
        memset(padded, 0, n * ROW * sizeof(float));
        for (size i = 0; i < n; i++)
            memcpy(padded + i * ROW, x + i * x_row + at, least(columns - at, ROW) * sizeof(float));
        copy_vectors(out, panel, wide, lanes, padded, ROW, columns - at, n, raised, bits);
    }
}

/* ---- products ---- */

/* c [HIGH, WIDE] = a b, or c += a b: a panel of each; a's rows lie a_row apart, its lanes a_lane. */
INLINE void tile_of_lanes(float *c, size c_row, operand a, size a_row, size a_lane, operand b, size lanes, int add,
                          int bits) {
    ivec sums[HIGH][2];
    for (int r = 0; r < HIGH; r++) {
        for (size j = 0; j < WIDE; j += 16) __builtin_prefetch(c + r * c_row + j, 1);
        sums[r][0] = sums[r][1] = integers(bits == 8 ? a.starts[r] : 0);
    }
    for (size p = 0; p < lanes; p++) {
        ivec left = load_integers(b.numbers + p * WIDE), right = load_integers(b.numbers + p * WIDE + W);
        for (int r = 0; r < HIGH; r++) {
            ivec factor = integers(a.numbers[r * a_row + p * a_lane]);
            sums[r][0] = add_products(sums[r][0], factor, left, bits);
            sums[r][1] = add_products(sums[r][1], factor, right, bits);
        }
    }
    /* Unrolled, or sums are kept in memory to be indexed. */
#pragma GCC unroll 16
    for (int r = 0; r < HIGH; r++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            float *to = c + r * c_row + v * W;
            vec value = __builtin_convertvector(sums[r][v], vec) * load(b.units + v * W) * a.units[r];
            store(to, add ? value + load(to) : value);
        }
}

/* c [m, n] += a block of a times one of b, or c = it. By rows, a lies as it did; by columns its lanes lie together. */
INLINE void multiply(float *c, size c_row, operand a, int by_rows, operand b, size m, size n, size lanes, int add,
                     int bits) {
    for (size i = 0; i < m; i += HIGH)
        for (size j = 0; j < n; j += WIDE) {
            operand left = {a.numbers + i / HIGH * panel_of(bits), a.starts + i, a.units + i};
            operand right = {b.numbers + j * lanes_of(bits), 0, b.units + j};
            float edge[HIGH * WIDE], *to = c + i * c_row + j;
            int whole = i + HIGH <= m && j + WIDE <= n, into = whole && add;
            float *out = whole ? to : edge;
            size row = whole ? c_row : WIDE;
            if (by_rows) tile_of_lanes(out, row, left, lanes_of(bits), 1, right, lanes, into, bits);
            else tile_of_lanes(out, row, left, 1, HIGH, right, lanes, into, bits);
            if (!whole) copy_part(to, c_row, edge, least(HIGH, m - i), least(WIDE, n - j), add);
        }
}

INLINE size panels(size m) { return round_up(m, TOGETHER * HIGH) / HIGH; }

INLINE size scratch_for(size m, size n, size k, int bits) {
    size of_a = panels(m) * (panel_of(bits) + 2 * HIGH) * blocks_of(k, DEPTH);
    return of_a + round_up(least(n, STRIP), TOGETHER * W) * (lanes_of(bits) + 1);
}

INLINE void product(float *c, size c_row, const float *a, size a_row, size a_column, const float *b, size b_row,
                    size b_column, size m, size n, size k, size add, int32_t *scratch, int bits) {
    size depth = depth_of(k, DEPTH, terms_of(bits) * W), blocks = blocks_of(k, depth), panel = panel_of(bits);
    size numbers = panels(m) * panel, rows = panels(m) * HIGH, columns = round_up(least(n, STRIP), TOGETHER * W);
    int32_t *starts = scratch + numbers * blocks;
    float *a_units = (float *)(starts + rows * blocks), *b_units = a_units + rows * blocks;
    operand right = {(int32_t *)(b_units + columns), starts, b_units}; /* it has no starts: these are not touched */
    for (size j = 0; j < n; j += STRIP)
        for (size block = 0; block < blocks; block++) {
            size first = block * depth, terms = least(depth, k - first), some = least(STRIP, n - j);
            size lanes = round_up(terms, terms_of(bits) * W) / terms_of(bits);
            operand left = {scratch + block * numbers, starts + block * rows, a_units + block * rows};
            const float *from = a + first * a_column, *with = b + first * b_row + j * b_column;
            if (j == 0 && a_column == 1)
                for (size i = 0; i < m; i += HIGH) {
                    operand to = {left.numbers + i / HIGH * panel, left.starts + i, left.units + i};
                    copy_rows(to, from + i * a_row, a_row, least(HIGH, m - i), terms, bits);
                }
            else if (j == 0) copy_columns(left, panel, HIGH, HIGH, from, a_column, m, terms, 0, bits);
            if (b_row == 1)
                for (size i = 0; i < some; i += WIDE) {
                    operand to = {right.numbers + i * lanes_of(bits), starts, right.units + i};
                    turn_rows(to, with + i * b_column, b_column, least(WIDE, some - i), terms, bits);
                }
            else
                copy_columns(right, WIDE * lanes_of(bits), WIDE, W, with, b_row, some, terms, bits == 8 ? RAISED : 0,
                             bits);
            multiply(c + j, c_row, left, a_column == 1, right, m, some, lanes, add || block, bits);
        }
}

/* Numbers of scratch memory that a product needs. */
size i16_product_scratch(size m, size n, size k) { return scratch_for(m, n, k, 16); }

size i8_product_scratch(size m, size n, size k) { return scratch_for(m, n, k, 8); }

/* c [m, n] = a [m, k] b [k, n], or c += a b. Of each operand either rows or columns are contiguous: one of its two
   steps is 1. What is in a row of a or a column of b that is not finite makes that row or column of c not finite. */
void i16_product(float *c, size c_row, const float *a, size a_row, size a_column, const float *b, size b_row,
                 size b_column, size m, size n, size k, size add, int32_t *scratch) {
    product(c, c_row, a, a_row, a_column, b, b_row, b_column, m, n, k, add, scratch, 16);
}

void i8_product(float *c, size c_row, const float *a, size a_row, size a_column, const float *b, size b_row,
                size b_column, size m, size n, size k, size add, int32_t *scratch) {
    product(c, c_row, a, a_row, a_column, b, b_row, b_column, m, n, k, add, scratch, 8);
}
