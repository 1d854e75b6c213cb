/* What a LLaMA's training step does besides matrix products of whole batches, in 32-bit floats.

   Matrices are row-major. M rows (tokens), D width, F hidden size, V vocabulary, B sequences of T tokens,
   H heads, K key-value heads, S head size. Everything is plain C with GCC's vector types, which GCC and Clang
   compile for any processor; sums run in an order that depends on sizes alone, so results repeat to the bit. */

#include "products.h"

enum { TILE = W == 16 ? 8 : 4 }; /* of 8 lanes: 4 x 2 sums in 16 registers, 8 to hide the latency of multiply-add */
_Static_assert((int)TILE <= (int)HIGH, "a tile has sums for HIGH rows");
enum { ROWS = 8 };  /* queries at a time: a multiple of TILE, and half of it is wasted at the causal edge */
enum { LINE = 16 }; /* floats of a cache line */
enum { ALIGN = 2 * W }; /* keys are padded to a multiple of this, which is one of ROWS */

/* From row to row of n floats: an odd number of cache lines, for rows a power of two apart share few places of
   the cache and drive each other out. */
INLINE size row_of(size n) { return ((n + LINE - 1) / LINE | 1) * LINE; }

size lanes(void) { return W; }

INLINE void store_part(float *p, vec v, size left) {
    if (left >= W) store(p, v);
    else memcpy(p, &v, left * sizeof(float));
}

/* Which lanes are among the first `left`. */
INLINE ivec among_first(size left) {
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < (int32_t)(left < W ? left : W);
}

INLINE vec first_lanes(vec v, size left) { return (vec)((ivec)v & among_first(left)); }

/* e^x for x up to 88, beyond which it is anything, no less than e^-87, NaN kept: Cephes' expf, whose error is below
   2 units in the last place. */
INLINE vec exponential(vec x) {
    /* 1.5 x 2^23 rounds what is added to a whole number, whose last bits are the result's; 127 is e^0's exponent. */
    const float shift = 12582912.0f + 127;
    vec clamped = larger(splat(-87.0f), x);
    vec turns = clamped * 1.44269504088896341f + shift, whole = turns - shift;
    vec r = clamped - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * (r * r) + r + 1.0f) * (vec)((ivec)turns << 23);
}

/* 1 / (1 + e^-x). */
INLINE vec sigmoid_of(vec x) { return 1.0f / (1.0f + exponential(-larger(splat(-88.0f), x))); }

/* ---- small matrix products, for attention ---- */

/* c = a b, or c += a b: m a multiple of TILE, n of W; a's rows lie a_row apart, its columns a_step. */
INLINE void product(float *c, size c_row, const float *a, size a_row, size a_step, const float *b, size b_row,
                    size m, size n, size depth, int add) {
    size j = 0;
    for (; j + 2 * W <= n; j += 2 * W)
        for (size i = 0; i < m; i += TILE)
            tile(c + i * c_row + j, c_row, a + i * a_row, a_row, a_step, b + j, b_row, depth, TILE, 2, add);
    for (; j < n; j += W)
        for (size i = 0; i < m; i += TILE)
            tile(c + i * c_row + j, c_row, a + i * a_row, a_row, a_step, b + j, b_row, depth, TILE, 1, add);
}

/* ---- root mean square norm, with the residual stream ---- */

/* x = before + change (before alone where change is null); y = x / rms(x) x weight; inverse = 1 / rms(x). */
void add_norm(float *x, float *y, float *inverse, const float *before, const float *change,
              const float *weight, size M, size D, float epsilon) {
    for (size m = 0; m < M; m++) {
        const float *old = before + m * D, *delta = change ? change + m * D : 0;
        float *now = x + m * D, *out = y + m * D;
        vec squares = splat(0);
        for (size j = 0; j < D; j += W) {
            vec value = load_part(old + j, D - j, 0);
            if (delta) value += load_part(delta + j, D - j, 0);
            store_part(now + j, value, D - j);
            squares += value * value;
        }
        float r = 1.0f / sqrtf(sum(squares) / D + epsilon);
        inverse[m] = r;
        for (size j = 0; j < D; j++) out[j] = now[j] * r * weight[j];
    }
}

/* Gradient of y = x r weight for one row: what x gets, written or added; weight's is added. */
INLINE void norm_row_backward(float *dx, const float *dy, const float *x, float r, const float *weight,
                              float *dweight, size n, int add) {
    vec dots = splat(0);
    for (size j = 0; j < n; j += W)
        dots += load_part(dy + j, n - j, 0) * load_part(x + j, n - j, 0) * load_part(weight + j, n - j, 0);
    float back = sum(dots) * r * r * r / n;
    for (size j = 0; j < n; j += W) {
        vec g = load_part(dy + j, n - j, 0), value = load_part(x + j, n - j, 0);
        vec change = g * load_part(weight + j, n - j, 0) * r - value * back;
        if (add) change += load_part(dx + j, n - j, 0);
        store_part(dx + j, change, n - j);
        store_part(dweight + j, load_part(dweight + j, n - j, 0) + g * value * r, n - j);
    }
}

/* dx gets what reaches the residual stream through the norm, added or written. */
void norm_backward(float *dx, const float *dy, const float *x, const float *inverse, const float *weight,
                   float *dweight, size M, size D, size add) {
    for (size m = 0; m < M; m++)
        norm_row_backward(dx + m * D, dy + m * D, x + m * D, inverse[m], weight, dweight, D, add);
}

/* ---- rotary positions, with the norm of queries and keys ---- */

/* y[i] = x[i] cosine[i] + sign x[i +- S/2] sine[i]; the sines carry the sign of the half they are in. */
INLINE void rotate(float *y, const float *x, const float *cosine, const float *sine, size S, float sign) {
    size half = S / 2;
    for (size i = 0; i < half; i++) y[i] = x[i] * cosine[i] + sign * x[i + half] * sine[i];
    for (size i = half; i < S; i++) y[i] = x[i] * cosine[i] + sign * x[i - half] * sine[i];
}

/* rotated [M, (H + K) S] from the queries and keys of qkv [M, (H + 2K) S]; norm weights may be null. */
void rotary(float *rotated, float *inverse, const float *qkv, const float *cosine, const float *sine,
            const float *query_weight, const float *key_weight, size M, size T, size H, size K, size S,
            float epsilon) {
    float normed[S];
    for (size m = 0; m < M; m++)
        for (size h = 0; h < H + K; h++) {
            const float *x = qkv + m * (H + 2 * K) * S + h * S, *weight = h < H ? query_weight : key_weight;
            if (weight) {
                vec squares = splat(0);
                for (size j = 0; j < S; j += W) {
                    vec value = load_part(x + j, S - j, 0);
                    squares += value * value;
                }
                float r = 1.0f / sqrtf(sum(squares) / S + epsilon);
                inverse[m * (H + K) + h] = r;
                for (size j = 0; j < S; j++) normed[j] = x[j] * r * weight[j];
                x = normed;
            }
            rotate(rotated + (m * (H + K) + h) * S, x, cosine + m % T * S, sine + m % T * S, S, 1);
        }
}

/* dqkv [M, (H + 2K) S] holds gradients of rotated queries and keys and leaves with those of qkv. */
void rotary_backward(float *dqkv, const float *inverse, const float *qkv, const float *cosine, const float *sine,
                     const float *query_weight, const float *key_weight, float *dquery_weight,
                     float *dkey_weight, size M, size T, size H, size K, size S) {
    float turned[S];
    for (size m = 0; m < M; m++)
        for (size h = 0; h < H + K; h++) {
            float *dx = dqkv + m * (H + 2 * K) * S + h * S;
            const float *x = qkv + m * (H + 2 * K) * S + h * S, *weight = h < H ? query_weight : key_weight;
            rotate(turned, dx, cosine + m % T * S, sine + m % T * S, S, -1);
            if (weight)
                norm_row_backward(dx, turned, x, inverse[m * (H + K) + h], weight,
                                  h < H ? dquery_weight : dkey_weight, S, 0);
            else memcpy(dx, turned, S * sizeof(float));
        }
}

/* ---- causal attention ---- */

/* Ask for n floats at p, which are read soon: rows of one head lie too far apart for the processor to guess. */
INLINE void fetch(const float *p, size n) {
    for (size s = 0; s < n; s += LINE) __builtin_prefetch(p + s);
}

/* to [padded, S in whole vectors] = from [n, S] x scale, what is beyond zero. */
INLINE void copy_rows(float *to, size to_row, const float *from, size from_row, size n, size padded, size S,
                      float scale) {
    for (size i = 0; i < n; i++) {
        fetch(from + (i + ROWS) * from_row, S);
        for (size s = 0; s < S; s += W)
            store(to + i * to_row + s, load_part(from + i * from_row + s, S - s, 0) * scale);
    }
    memset(to + n * to_row, 0, (padded - n) * to_row * sizeof(float));
}

/* to [S, padded] = from^T, columns from n on are zero. */
INLINE void transpose(float *to, size to_row, const float *from, size from_row, size n, size padded, size S) {
    size first = 0;
    for (; first + 8 <= n; first += 8) {
        for (size i = first; i < first + 8; i++) fetch(from + (i + ROWS) * from_row, S);
        for (size s = 0; s < S; s++)
            for (size i = first; i < first + 8; i++) to[s * to_row + i] = from[i * from_row + s];
    }
    for (; first < padded; first++)
        for (size s = 0; s < S; s++) to[s * to_row + first] = first < n ? from[first * from_row + s] : 0;
}

INLINE void put_row(float *to, const float *from, size n, float scale) {
    for (size s = 0; s < n; s += W) store_part(to + s, load(from + s) * scale, n - s);
}

INLINE float dot(const float *a, const float *b, size n) {
    vec total = splat(0);
    for (size s = 0; s < n; s += W) total += load_part(a + s, n - s, 0) * load_part(b + s, n - s, 0);
    return sum(total);
}

/* Floats of scratch memory that attention needs. */
size attention_scratch(size T, size S) {
    size keys = round_up(T, ALIGN);
    return 2 * (S + ROWS) * row_of(keys) + 3 * (keys + ROWS) * row_of(S);
}

/* The largest of the first n of a row of whole vectors. */
INLINE float peak_of(const float *row, size n) {
    vec most = splat(-INFINITY);
    size j = 0;
    for (; j + W <= n; j += W) most = larger(load(row + j), most);
    if (j < n) most = larger(choose(among_first(n - j), load(row + j), most), most);
    return largest(most);
}

/* Scores become weights: e^(score - most) for the first `seen` of n, zero for the others; the sum of what is left.
   With a gradient of weights, that of scores takes its place: weight x (it - mean). */
INLINE float softmax_row(float *row, float *gradient, size seen, size n, float most, float mean) {
    vec total = splat(0);
    for (size j = 0; j < n; j += W) {
        vec e = exponential(load(row + j) - most);
        if (j + W > seen) e = first_lanes(e, seen - j);
        store(row + j, e);
        if (gradient) store(gradient + j, e * (load(gradient + j) - mean));
        total += e;
    }
    return sum(total);
}

/* How many keys a query sees; one of the padding sees all. */
INLINE size seen_by(size query, size T) { return query < T ? query + 1 : T; }

/* mixed [M, H S] and log_sum [M, H], the logarithm of softmax's denominator. */
void attention(float *mixed, float *log_sum, const float *rotated, const float *qkv, float *scratch, size B,
               size T, size H, size K, size S) {
    size keys = round_up(T, ALIGN), keys_row = row_of(keys), wide = round_up(S, W), head_row = row_of(S);
    size qk_row = (H + K) * S, qkv_row = (H + 2 * K) * S;
    float *k_t = scratch, *v = k_t + S * keys_row, *scores = v + keys * head_row, *q = scores + ROWS * keys_row,
          *o = q + ROWS * head_row, scale = 1.0f / sqrtf((float)S);
    for (size b = 0; b < B; b++)
        for (size h = 0; h < H; h++) {
            size group = h / (H / K);
            if (h % (H / K) == 0) {
                transpose(k_t, keys_row, rotated + b * T * qk_row + (H + group) * S, qk_row, T, keys, S);
                copy_rows(v, head_row, qkv + b * T * qkv_row + (H + K + group) * S, qkv_row, T, keys, S, 1);
            }
            for (size first = 0; first < T; first += ROWS) {
                size rows = T - first < ROWS ? T - first : ROWS, n = round_up(first + ROWS, W);
                copy_rows(q, head_row, rotated + (b * T + first) * qk_row + h * S, qk_row, rows, ROWS, S, scale);
                product(scores, keys_row, q, head_row, 1, k_t, keys_row, ROWS, n, S, 0);
                float peaks[ROWS], totals[ROWS]; /* row upon row each, for one waits long for its last sum */
                for (size r = 0; r < ROWS; r++) peaks[r] = peak_of(scores + r * keys_row, seen_by(first + r, T));
                for (size r = 0; r < ROWS; r++)
                    totals[r] = softmax_row(scores + r * keys_row, 0, seen_by(first + r, T), n, peaks[r], 0);
                for (size r = 0; r < rows; r++)
                    log_sum[(b * T + first + r) * H + h] = peaks[r] + logf(totals[r]);
                product(o, head_row, scores, keys_row, 1, v, head_row, ROWS, wide, first + ROWS, 0);
                for (size r = 0; r < rows; r++)
                    put_row(mixed + ((b * T + first + r) * H + h) * S, o + r * head_row, S, 1.0f / totals[r]);
            }
        }
}

/* Gradients of rotated queries, of rotated keys and of values, into dqkv [M, (H + 2K) S]. */
void attention_backward(float *dqkv, const float *dmixed, const float *mixed, const float *log_sum,
                        const float *rotated, const float *qkv, float *scratch, size B, size T, size H, size K,
                        size S) {
    size keys = round_up(T, ALIGN), keys_row = row_of(keys), wide = round_up(S, W), head_row = row_of(S);
    size qk_row = (H + K) * S, qkv_row = (H + 2 * K) * S;
    float *k_t = scratch, *v_t = k_t + S * keys_row, *k = v_t + S * keys_row, *dk = k + keys * head_row,
          *dv = dk + keys * head_row, *scores = dv + keys * head_row, *slopes = scores + ROWS * keys_row,
          *q = slopes + ROWS * keys_row, *out = q + ROWS * head_row, *dq = out + ROWS * head_row,
          scale = 1.0f / sqrtf((float)S);
    for (size b = 0; b < B; b++)
        for (size h = 0; h < H; h++) {
            size group = h / (H / K);
            const float *key = rotated + b * T * qk_row + (H + group) * S,
                        *value = qkv + b * T * qkv_row + (H + K + group) * S;
            if (h % (H / K) == 0) {
                transpose(k_t, keys_row, key, qk_row, T, keys, S);
                transpose(v_t, keys_row, value, qkv_row, T, keys, S);
                copy_rows(k, head_row, key, qk_row, T, keys, S, 1);
                memset(dk, 0, 2 * keys * head_row * sizeof(float));
            }
            for (size first = 0; first < T; first += ROWS) {
                size rows = T - first < ROWS ? T - first : ROWS, n = round_up(first + ROWS, W);
                size token = b * T + first;
                copy_rows(q, head_row, rotated + token * qk_row + h * S, qk_row, rows, ROWS, S, scale);
                copy_rows(out, head_row, dmixed + (token * H + h) * S, H * S, rows, ROWS, S, 1);
                product(scores, keys_row, q, head_row, 1, k_t, keys_row, ROWS, n, S, 0);
                product(slopes, keys_row, out, head_row, 1, v_t, keys_row, ROWS, n, S, 0);
                for (size r = 0; r < ROWS; r++) {
                    size seen = r < rows ? first + r + 1 : 0, from = token + (seen ? r : 0);
                    float mean = dot(mixed + (from * H + h) * S, out + r * head_row, S);
                    softmax_row(scores + r * keys_row, slopes + r * keys_row, seen, n, log_sum[from * H + h], mean);
                }
                product(dq, head_row, slopes, keys_row, 1, k, head_row, ROWS, wide, first + ROWS, 0);
                product(dv, head_row, scores, 1, keys_row, out, head_row, first + ROWS, wide, ROWS, 1);
                product(dk, head_row, slopes, 1, keys_row, q, head_row, first + ROWS, wide, ROWS, 1);
                for (size r = 0; r < rows; r++)
                    put_row(dqkv + (token + r) * qkv_row + h * S, dq + r * head_row, S, scale);
            }
            if ((h + 1) % (H / K) == 0)
                for (size t = 0; t < T; t++) {
                    float *to = dqkv + (b * T + t) * qkv_row + (H + group) * S;
                    put_row(to, dk + t * head_row, S, 1);
                    put_row(to + K * S, dv + t * head_row, S, 1);
                }
        }
}

/* ---- SwiGLU ---- */

/* y [M, F] = silu(gate) x up, from both side by side, [M, 2F]. */
void gated(float *y, const float *gate_up, size M, size F) {
    for (size m = 0; m < M; m++) {
        const float *gate = gate_up + 2 * m * F, *up = gate + F;
        for (size j = 0; j < F; j += W) {
            vec g = load_part(gate + j, F - j, 0), u = load_part(up + j, F - j, 0);
            store_part(y + m * F + j, g * sigmoid_of(g) * u, F - j);
        }
    }
}

/* gate_up becomes its own gradient. */
void gated_backward(float *gate_up, const float *dy, size M, size F) {
    for (size m = 0; m < M; m++) {
        float *gate = gate_up + 2 * m * F, *up = gate + F;
        for (size j = 0; j < F; j += W) {
            vec g = load_part(gate + j, F - j, 0), u = load_part(up + j, F - j, 0);
            vec d = load_part(dy + m * F + j, F - j, 0), sigmoid = sigmoid_of(g);
            store_part(gate + j, d * u * sigmoid * (1.0f + g * (1.0f - sigmoid)), F - j);
            store_part(up + j, d * g * sigmoid, F - j);
        }
    }
}

/* ---- embedding and cross entropy ---- */

void embed(float *x, const float *table, const int64_t *tokens, size M, size D) {
    for (size m = 0; m < M; m++) memcpy(x + m * D, table + tokens[m] * D, D * sizeof(float));
}

void embed_backward(float *dtable, const float *dx, const int64_t *tokens, size M, size D) {
    for (size m = 0; m < M; m++) {
        float *row = dtable + tokens[m] * D;
        for (size j = 0; j < D; j++) row[j] += dx[m * D + j];
    }
}

/* loss = the sum of losses in nats; logits become scale times the gradient of
   (that sum + z_loss x the sum of squared logarithms of softmax's denominator). */
void cross_entropy(double *loss, float *logits, const int64_t *targets, size M, size V, float z_loss, float scale) {
    *loss = 0;
    for (size m = 0; m < M; m++) {
        float *row = logits + m * V, target = row[targets[m]];
        vec most = splat(-INFINITY), total = splat(0);
        for (size j = 0; j < V; j += W) most = larger(load_part(row + j, V - j, -INFINITY), most);
        float peak = largest(most);
        for (size j = 0; j < V; j += W) {
            vec e = exponential(load_part(row + j, V - j, -INFINITY) - peak);
            store_part(row + j, e, V - j);
            total += first_lanes(e, V - j);
        }
        float denominator = sum(total), log_sum = peak + logf(denominator);
        float each = scale * (1.0f + 2.0f * z_loss * log_sum) / denominator;
        for (size j = 0; j < V; j++) row[j] *= each;
        row[targets[m]] -= scale;
        *loss += log_sum - target;
    }
}

/* ---- AdamW over flat buffers ---- */

void sum_of_squares(double *total, const float *x, size n) {
    enum { BLOCK = 1024 }; /* numbers whose squares are added up in 32 bits */
    *total = 0;
    for (size first = 0; first < n; first += BLOCK) {
        vec squares[2] = {splat(0), splat(0)};
        for (size i = first; i < first + BLOCK && i < n; i += 2 * W)
            for (int v = 0; v < 2 && i + v * W < n; v++) {
                vec numbers = load_part(x + i + v * W, n - i - v * W, 0);
                squares[v] += numbers * numbers;
            }
        *total += sum(squares[0] + squares[1]);
    }
}

/* `keep` is what decay leaves of a weight; bias is corrected in `rate` and in `inverse`, which roots are times. */
void adamw(float *restrict weight, float *restrict gradient, float *restrict mean, float *restrict square, size n,
           float scale, float keep, float rate, float beta1, float beta2, float inverse, float epsilon) {
    for (size i = 0; i < n; i++) {
        float g = gradient[i] * scale;
        mean[i] += (1.0f - beta1) * (g - mean[i]);
        square[i] = beta2 * square[i] + (1.0f - beta2) * g * g;
        weight[i] = weight[i] * keep - rate * mean[i] / (sqrtf(square[i]) * inverse + epsilon);
        gradient[i] = 0;
    }
}
