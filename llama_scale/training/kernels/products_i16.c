/* Products of whole matrices by 16-bit integers: twice as many multiply-adds an instruction as in 32-bit floats.

   The sum over k is cut into blocks of up to DEPTH terms. In a block each row of a and each column of b is rounded to
   whole multiples of a unit of its own, NORM of which are its norm: so no number leaves 16 bits and, by Cauchy and
   Schwarz, no sum of products 32 bits; sums are exact in any order. Rounding errs by up to
   2e-4 of the norm (sqrt(512 / 12) / 32,766) whatever the numbers are, an eighth of what bf16 does. Das et al. 2018
   (arXiv 1802.00930) train by 16-bit integers with one unit a tensor. Norms are to lie between 1e-34 and 1e34: lesser ones count as zero.

   Operands are copied first: a in panels of HIGH rows, whose numbers are broadcast, b in panels of WIDE columns. A
   32-bit lane holds a pair of terms, W apart: terms may come in any order that a and b share, and this one needs
   no shuffling. */

#include "products.h"

enum { DEPTH = 512, PAIRS = DEPTH / 2 };
enum { TOGETHER = 4 };                /* vectors side by side when columns are copied */
enum { AHEAD = 16 };                  /* rows asked for before they are read: they lie too far apart to be guessed */
enum { PANEL = HIGH * PAIRS + W };    /* lanes of a panel of a, and room for what the last vector spills */

typedef uint32_t uvec __attribute__((vector_size(4 * W)));

INLINE ivec integers(int32_t x) { return x - (ivec){0}; }

INLINE ivec load_integers(const int32_t *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store_integers(int32_t *p, ivec v) { memcpy(p, &v, sizeof v); }

/* ---- from floats to integers ---- */

static const float NORM = 32766.0f; /* in units; one less than 16 bits hold, for rounding */

/* The unit of n numbers `step` apart whose squares add up to `squares`; NaN if one is, not finite if one is not. */
INLINE float unit_of(float squares, const float *x, size step, size n) {
    if ((squares > 1e-30f && squares < 1e37f) || squares != squares) return sqrtf(squares) / NORM;
    float most = 0; /* squares of such numbers vanish or overflow: bound the norm, if less closely */
    for (size i = 0; i < n; i++) most = fabsf(x[i * step]) > most ? fabsf(x[i * step]) : most;
    return most / NORM * sqrtf((float)n);
}

INLINE float inverse_of(float unit) {
    float inverse = 1.0f / unit;
    return isinf(inverse) ? 0 : inverse;
}

/* The last 16 bits are those of round(x inverse): 1.5 x 2^23 leaves no bits for a fraction. */
INLINE ivec rounded(vec x, vec inverse) { return (ivec)(x * inverse + 12582912.0f); }

INLINE ivec pair(ivec low, ivec high) { return (low & 0xffff) | (high << 16); }

/* Pairs of the first `left` of 2 W numbers, zeros after them. */
INLINE ivec pair_at(const float *x, size left, vec inverse) {
    vec low = load_part(x, left, 0), high = left > W ? load_part(x + W, left - W, 0) : splat(0);
    return pair(rounded(low, inverse), rounded(high, inverse));
}

INLINE float unit_of_row(const float *x, size x_row, size n) {
    vec squares = splat(0);
    for (size i = 0; i < n; i += W) {
        vec numbers = load_part(x + i, n - i, 0);
        __builtin_prefetch(x + x_row + i);
        squares += numbers * numbers;
    }
    return unit_of(sum(squares), x, 1, n);
}

/* n <= DEPTH numbers of each row of x [rows, n], to rows of PAIRS. */
INLINE void copy_rows(int32_t *to, float *units, const float *x, size x_row, size rows, size n) {
    for (size r = 0; r < rows; r++, x += x_row) {
        units[r] = unit_of_row(x, x_row, n);
        vec inverse = splat(inverse_of(units[r]));
        for (size i = 0; i < n; i += 2 * W) store_integers(to + r * PAIRS + i / 2, pair_at(x + i, n - i, inverse));
    }
}

/* n <= DEPTH numbers of each of up to WIDE rows of x [rows, n], to columns of a panel. */
INLINE void turn_rows(int32_t *to, float *units, const float *x, size x_row, size rows, size n) {
    for (size first = 0; first < rows; first += W, x += W * x_row) {
        size some = least(W, rows - first);
        float inverse[W];
        for (size r = 0; r < some; r++) {
            units[first + r] = unit_of_row(x + r * x_row, x_row, n);
            inverse[r] = inverse_of(units[first + r]);
        }
        for (size i = 0; i < n; i += 2 * W) {
            int32_t square[W][W]; /* beyond `some` is what happens to lie there, for columns that nobody reads */
            for (size r = 0; r < some; r++)
                store_integers(square[r], pair_at(x + r * x_row + i, n - i, splat(inverse[r])));
            for (size p = 0; p < W; p++)
                for (size r = 0; r < W; r++) to[(i / 2 + p) * WIDE + first + r] = square[r][p];
        }
    }
}

/* n <= DEPTH numbers of up to TOGETHER x `lanes` columns of x [n, columns], to panels of `wide` columns, `panel`
   lanes apart. Whole vectors are read and written: lanes beyond `lanes` are written over by the next. */
INLINE void copy_vectors(int32_t *to, size panel, size wide, size lanes, float *units, const float *x, size x_row,
                         size columns, size n) {
    vec squares[TOGETHER], inverse[TOGETHER];
    for (int v = 0; v < TOGETHER; v++) squares[v] = splat(0);
    for (size i = 0; i < n; i++)
        for (int v = 0; v < TOGETHER; v++) {
            const float *numbers = x + i * x_row + v * lanes;
            __builtin_prefetch(numbers + AHEAD * x_row);
            squares[v] += load(numbers) * load(numbers);
        }
    for (int v = 0; v < TOGETHER; v++)
        for (size i = 0; i < W; i++) {
            size column = v * lanes + i;
            int is_own = i < lanes && column < columns;
            float unit = is_own ? unit_of(squares[v][i], x + column, x_row, n) : 0;
            inverse[v][i] = inverse_of(unit);
            if (is_own) units[column] = unit;
        }
    for (size first = 0; first < n; first += 2 * W)
        for (size i = first; i < first + W; i++)
            for (int v = 0; v < TOGETHER; v++) {
                size column = v * lanes;
                ivec low = integers(0), high = low;
                if (i < n) low = rounded(load(x + i * x_row + column), inverse[v]);
                if (i + W < n) high = rounded(load(x + (i + W) * x_row + column), inverse[v]);
                int32_t *out = to + column / wide * panel + (first / 2 + i - first) * wide + column % wide;
                store_integers(out, pair(low, high));
            }
}

/* n <= DEPTH numbers of each column of x [n, columns], to panels of `wide` columns, by vectors of `lanes` columns. */
INLINE void copy_columns(int32_t *to, size panel, size wide, size lanes, float *units, const float *x, size x_row,
                         size columns, size n) {
    enum { ROW = TOGETHER * W };
    for (size at = 0; at < columns; at += TOGETHER * lanes) {
        int32_t *out = to + at / wide * panel;
        if (at + (TOGETHER - 1) * lanes + W <= columns) {
            copy_vectors(out, panel, wide, lanes, units + at, x + at, x_row, columns - at, n);
            continue;
        }
        float padded[DEPTH * ROW];
        memset(padded, 0, n * ROW * sizeof(float));
        for (size i = 0; i < n; i++)
            memcpy(padded + i * ROW, x + i * x_row + at, least(columns - at, ROW) * sizeof(float));
        copy_vectors(out, panel, wide, lanes, units + at, padded, ROW, columns - at, n);
    }
}

/* ---- products ---- */

/* sums += the products of both 16-bit numbers of each lane; what NaN was rounded to may wrap around. */
INLINE ivec add_products(ivec sums, ivec a, ivec b) {
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

/* c [HIGH, WIDE] = a b, or c += a b: a panel of each; a's rows lie a_row apart, its pairs a_pair. */
INLINE void tile_of_pairs(float *c, size c_row, const int32_t *a, size a_row, size a_pair, const int32_t *b,
                          size pairs, const float *a_units, const float *b_units, int add) {
    ivec sums[HIGH][2];
    for (int r = 0; r < HIGH; r++) {
        for (size j = 0; j < WIDE; j += 16) __builtin_prefetch(c + r * c_row + j, 1);
        sums[r][0] = sums[r][1] = integers(0);
    }
    for (size p = 0; p < pairs; p++) {
        ivec left = load_integers(b + p * WIDE), right = load_integers(b + p * WIDE + W);
        for (int r = 0; r < HIGH; r++) {
            ivec factor = integers(a[r * a_row + p * a_pair]);
            sums[r][0] = add_products(sums[r][0], factor, left);
            sums[r][1] = add_products(sums[r][1], factor, right);
        }
    }
    /* Unrolled, or sums are kept in memory to be indexed. */
#pragma GCC unroll 16
    for (int r = 0; r < HIGH; r++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            float *to = c + r * c_row + v * W;
            vec value = __builtin_convertvector(sums[r][v], vec) * load(b_units + v * W) * a_units[r];
            store(to, add ? value + load(to) : value);
        }
}

/* The copy of an operand's block, and what one of its integers is worth. */
typedef struct {
    int32_t *numbers;
    float *units;
} operand;

/* c [m, n] += a block of a times one of b, or c = it. By rows, a lies as it did; by columns its pairs lie together. */
INLINE void multiply(float *c, size c_row, operand a, int by_rows, operand b, size m, size n, size pairs, int add) {
    for (size i = 0; i < m; i += HIGH)
        for (size j = 0; j < n; j += WIDE) {
            const int32_t *left = a.numbers + i / HIGH * PANEL, *right = b.numbers + j * PAIRS;
            float edge[HIGH * WIDE], *to = c + i * c_row + j;
            int whole = i + HIGH <= m && j + WIDE <= n, into = whole && add;
            float *out = whole ? to : edge;
            size row = whole ? c_row : WIDE;
            if (by_rows) tile_of_pairs(out, row, left, PAIRS, 1, right, pairs, a.units + i, b.units + j, into);
            else tile_of_pairs(out, row, left, 1, HIGH, right, pairs, a.units + i, b.units + j, into);
            if (!whole) copy_part(to, c_row, edge, least(HIGH, m - i), least(WIDE, n - j), add);
        }
}

INLINE size panels_of(size m) { return round_up(m, TOGETHER * HIGH) / HIGH; }

/* Numbers of scratch memory that a product needs. */
size i16_product_scratch(size m, size n, size k) {
    size of_a = panels_of(m) * (PANEL + HIGH) * blocks_of(k, DEPTH);
    return of_a + round_up(least(n, STRIP), TOGETHER * W) * (PAIRS + 1);
}

/* c [m, n] = a [m, k] b [k, n], or c += a b. Of each operand either rows or columns are contiguous: one of its two
   steps is 1. What is in a row of a or a column of b that is not finite makes that row or column of c not finite. */
void i16_product(float *c, size c_row, const float *a, size a_row, size a_column, const float *b, size b_row,
                 size b_column, size m, size n, size k, size add, int32_t *scratch) {
    size depth = depth_of(k, DEPTH, 2 * W), blocks = blocks_of(k, depth);
    size numbers = panels_of(m) * PANEL, units = panels_of(m) * HIGH, columns = round_up(least(n, STRIP), TOGETHER * W);
    float *a_units = (float *)(scratch + numbers * blocks), *b_units = a_units + units * blocks;
    operand right = {(int32_t *)(b_units + columns), b_units};
    for (size j = 0; j < n; j += STRIP)
        for (size block = 0; block < blocks; block++) {
            size first = block * depth, terms = least(depth, k - first), some = least(STRIP, n - j);
            operand left = {scratch + block * numbers, a_units + block * units};
            const float *from = a + first * a_column, *with = b + first * b_row + j * b_column;
            if (j == 0 && a_column == 1)
                for (size i = 0; i < m; i += HIGH)
                    copy_rows(left.numbers + i / HIGH * PANEL, left.units + i, from + i * a_row, a_row,
                              least(HIGH, m - i), terms);
            else if (j == 0) copy_columns(left.numbers, PANEL, HIGH, HIGH, left.units, from, a_column, m, terms);
            if (b_row == 1)
                for (size i = 0; i < some; i += WIDE)
                    turn_rows(right.numbers + i * PAIRS, right.units + i, with + i * b_column, b_column,
                              least(WIDE, some - i), terms);
            else copy_columns(right.numbers, WIDE * PAIRS, WIDE, W, right.units, with, b_row, some, terms);
            multiply(c + j, c_row, left, a_column == 1, right, m, some, round_up(terms, 2 * W) / 2, add || block);
        }
}
