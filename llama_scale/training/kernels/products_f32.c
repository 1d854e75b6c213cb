/* Products of whole matrices in 32-bit floats, in an order that depends on sizes alone.

   The sum over k is cut into blocks of up to DEPTH terms. Of each a strip of b is copied to panels of WIDE columns.
   a is read where it lies; HIGH rows are copied where there are fewer, and where their columns are contiguous and
   they are read REUSES times: columns a power of two apart drive each other out of the first cache. */

#include "products.h"

enum { DEPTH = 256 }; /* terms: a panel of b stays in the first cache */
enum { PANEL = DEPTH * WIDE };
enum { REUSES = 8 };

/* to [n, WIDE] a panel = x [n, columns]. */
INLINE void copy_panels(float *to, const float *x, size x_row, size columns, size n) {
    for (size j = 0; j < columns; j += W) {
        float *out = to + j / WIDE * PANEL + j % WIDE;
        for (size i = 0; i < n; i++) store(out + i * WIDE, load_part(x + i * x_row + j, columns - j, 0));
    }
}

/* to [n, WIDE] a panel = x^T, x [rows, n]. */
INLINE void turn_panels(float *to, const float *x, size x_row, size rows, size n) {
    for (size j = 0; j < rows; j += W) {
        float *out = to + j / WIDE * PANEL + j % WIDE;
        for (size i = 0; i < n; i += W) {
            float square[W][W]; /* beyond `rows` is what happens to lie there, for columns that nobody reads */
            for (size r = 0; r < least(W, rows - j); r++) {
                const float *from = x + (j + r) * x_row + i;
                __builtin_prefetch(from + W);
                store(square[r], load_part(from, n - i, 0));
            }
            for (size p = 0; p < W; p++)
                for (size r = 0; r < W; r++) out[(i + p) * WIDE + r] = square[r][p];
        }
    }
}

/* to [n, HIGH] = x^T, of HIGH rows of x; of those beyond the `left` that are still to come zeros. */
INLINE void copy_rows(float *to, const float *x, size x_row, size x_column, size left, size n) {
    for (size i = 0; i < n; i++) {
        const float *column = x + i * x_column;
        if (x_row == 1) {
            __builtin_prefetch(column + HIGH + W - 1); /* of the next rows */
            store(to + i * HIGH, load_part(column, left, 0)); /* beyond HIGH the next column's place */
        } else
            for (size r = 0; r < HIGH; r++) to[i * HIGH + r] = r < left ? column[r * x_row] : 0;
    }
}

/* c [up to HIGH, n] = a times panels of b, or c += that. */
INLINE void multiply(float *c, size c_row, const float *a, size a_row, size a_step, const float *panels, size rows,
                     size n, size terms, int add) {
    for (size j = 0; j < n; j += WIDE, panels += PANEL) {
        float part[HIGH * WIDE];
        if (rows >= HIGH && j + WIDE <= n) {
            tile(c + j, c_row, a, a_row, a_step, panels, WIDE, terms, HIGH, 2, add);
            continue;
        }
        if (n - j > W) tile(part, WIDE, a, a_row, a_step, panels, WIDE, terms, HIGH, 2, 0);
        else tile(part, WIDE, a, a_row, a_step, panels, WIDE, terms, HIGH, 1, 0);
        copy_part(c + j, c_row, part, least(HIGH, rows), least(WIDE, n - j), add);
    }
}

/* Numbers of scratch memory that a product needs. */
size f32_product_scratch(size m, size n, size k) {
    (void)m, (void)k;
    return round_up(least(n, STRIP), WIDE) * DEPTH + DEPTH * HIGH + W;
}

/* c [m, n] = a [m, k] b [k, n], or c += a b. Of each operand either rows or columns are contiguous: one of its two
   steps is 1. */
void f32_product(float *c, size c_row, const float *a, size a_row, size a_column, const float *b, size b_row,
                 size b_column, size m, size n, size k, size add, float *scratch) {
    size depth = depth_of(k, DEPTH, W);
    float *panels = scratch, *copy = scratch + round_up(least(n, STRIP), WIDE) * DEPTH;
    for (size j = 0; j < n; j += STRIP)
        for (size first = 0; first < k; first += depth) {
            size terms = least(depth, k - first), some = least(STRIP, n - j);
            const float *from = a + first * a_column, *with = b + first * b_row + j * b_column;
            if (b_row == 1) turn_panels(panels, with, b_column, some, terms);
            else copy_panels(panels, with, b_row, some, terms);
            for (size i = 0; i < m; i += HIGH, from += HIGH * a_row) {
                int is_copied = i + HIGH > m || (a_row == 1 && some >= REUSES * WIDE);
                if (is_copied) copy_rows(copy, from, a_row, a_column, m - i, terms);
                const float *left = is_copied ? copy : from;
                size row = is_copied ? 1 : a_row, step = is_copied ? HIGH : a_column;
                float *to = c + i * c_row + j;
                if (row == 1) multiply(to, c_row, left, 1, step, panels, m - i, some, terms, add || first);
                else multiply(to, c_row, left, row, 1, panels, m - i, some, terms, add || first);
            }
        }
}
