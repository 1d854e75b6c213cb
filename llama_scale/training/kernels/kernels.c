/* What a LLaMA's training step does besides matrix products of whole batches, in 32-bit floats on one thread.

   Matrices are row-major. M rows (tokens), D width, F hidden size, V vocabulary, B sequences of T tokens,
   H heads, K key-value heads, S head size. Everything is plain C with GCC's vector types, which GCC and Clang
   compile for any processor; sums run in an order that depends on sizes alone, so results repeat to the bit. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { W = 16, TILE = 8 };
#elif defined(__AVX2__) || defined(__AVX__)
enum { W = 8, TILE = 4 }; /* 4 x 2 sums in 16 registers, 8 of them to hide the latency of fused multiply-add */
#else
enum { W = 4, TILE = 8 };
#endif

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef int64_t size;

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 16 }; /* queries at a time: a multiple of TILE, and half of it is wasted at the causal edge */
enum { ALIGN = 2 * W > ROWS ? 2 * W : ROWS }; /* keys are padded to a multiple of this */

INLINE size round_up(size n, size to) { return (n + to - 1) / to * to; }

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* GCC would read b from memory in each multiply-add, for which there are too few load units. */
INLINE vec in_register(vec v) {
#if defined(__x86_64__)
    __asm__("" : "+x"(v));
#endif
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

INLINE void store_part(float *p, vec v, size left) {
    if (left >= W) store(p, v);
    else memcpy(p, &v, left * sizeof(float));
}

INLINE vec choose(ivec which, vec yes, vec no) { return (vec)((which & (ivec)yes) | (~which & (ivec)no)); }

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

INLINE float sum(vec v) {
    float lanes[W], total = 0;
    memcpy(lanes, &v, sizeof v);
    for (int i = 0; i < W; i++) total += lanes[i];
    return total;
}

INLINE float largest(vec v) {
    float lanes[W], most = v[0];
    memcpy(lanes, &v, sizeof v);
    for (int i = 1; i < W; i++) most = lanes[i] > most ? lanes[i] : most;
    return most;
}

/* e^x for x in [-87, 88], clamped to it, NaN kept: Cephes' expf, whose error is below 2 units in the last place. */
INLINE vec exponential(vec x) {
    vec high = choose(x > 88.0f, splat(88.0f), x);
    vec clamped = choose(high < -87.0f, splat(-87.0f), high);
    vec turns = clamped * 1.44269504088896341f + 12582912.0f; /* 1.5 x 2^23: the sum rounds to a whole number */
    vec whole = turns - 12582912.0f;
    vec r = clamped - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vec power = p * (r * r) + r + 1.0f;
    ivec exponent = (__builtin_convertvector(whole, ivec) + 127) << 23;
    return choose(x == x, power * (vec)exponent, x);
}

/* ---- small matrix products, for attention ---- */

INLINE void tile(float *c, size c_row, const float *a, size a_row, size a_step, const float *b, size b_row,
                 size depth, int vectors, int add) {
    vec total[TILE][2];
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < vectors; v++) total[r][v] = add ? load(c + r * c_row + v * W) : splat(0);
    for (size i = 0; i < depth; i++) {
        vec right[2];
        for (int v = 0; v < vectors; v++) right[v] = in_register(load(b + i * b_row + v * W));
        for (int r = 0; r < TILE; r++) {
            vec left = splat(a[r * a_row + i * a_step]);
            for (int v = 0; v < vectors; v++) total[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < vectors; v++) store(c + r * c_row + v * W, total[r][v]);
}

/* c = a b, or c += a b: m a multiple of TILE, n of W; a's rows lie a_row apart, its columns a_step. */
INLINE void product(float *c, size c_row, const float *a, size a_row, size a_step, const float *b, size b_row,
                    size m, size n, size depth, int add) {
    size j = 0;
    for (; j + 2 * W <= n; j += 2 * W)
        for (size i = 0; i < m; i += TILE)
            tile(c + i * c_row + j, c_row, a + i * a_row, a_row, a_step, b + j, b_row, depth, 2, add);
    for (; j < n; j += W)
        for (size i = 0; i < m; i += TILE)
            tile(c + i * c_row + j, c_row, a + i * a_row, a_row, a_step, b + j, b_row, depth, 1, add);
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

/* Adds to dx what reaches the residual stream through the norm. */
void norm_backward(float *dx, const float *dy, const float *x, const float *inverse, const float *weight,
                   float *dweight, size M, size D) {
    for (size m = 0; m < M; m++)
        norm_row_backward(dx + m * D, dy + m * D, x + m * D, inverse[m], weight, dweight, D, 1);
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

/* to [n, width] = from x scale, row by row; rows from n to `padded` and columns from S to `width` are zero. */
INLINE void copy_rows(float *to, size width, const float *from, size row, size n, size padded, size S,
                      float scale) {
    for (size i = 0; i < n; i++) {
        for (size s = 0; s < S; s++) to[i * width + s] = from[i * row + s] * scale;
        for (size s = S; s < width; s++) to[i * width + s] = 0;
    }
    memset(to + n * width, 0, (padded - n) * width * sizeof(float));
}

/* to [S, padded] = from^T, columns from n on are zero. */
INLINE void transpose(float *to, const float *from, size row, size n, size padded, size S) {
    for (size s = 0; s < S; s++) {
        for (size i = 0; i < n; i++) to[s * padded + i] = from[i * row + s];
        for (size i = n; i < padded; i++) to[s * padded + i] = 0;
    }
}

/* Floats of scratch memory that attention needs. */
size attention_scratch(size T, size S) {
    size keys = round_up(T, ALIGN), wide = round_up(S, W);
    return keys * (2 * ROWS + 2 * S + 3 * wide) + 3 * ROWS * wide;
}

/* e^(score - most) over the first n of a row, zero up to `padded`; the sum of what is left. */
INLINE float exponentials(float *row, size n, size padded, float most) {
    vec total = splat(0);
    for (size j = 0; j < n; j += W) {
        vec e = exponential(load_part(row + j, n - j, -INFINITY) - most);
        if (n - j < W) {
            float lanes[W];
            memcpy(lanes, &e, sizeof e);
            for (size i = n - j; i < W; i++) lanes[i] = 0;
            memcpy(&e, lanes, sizeof e);
        }
        store(row + j, e);
        total += e;
    }
    for (size j = round_up(n, W); j < padded; j++) row[j] = 0;
    return sum(total);
}

/* mixed [M, H S] and log_sum [M, H], the logarithm of softmax's denominator. */
void attention(float *mixed, float *log_sum, const float *rotated, const float *qkv, float *scratch, size B,
               size T, size H, size K, size S) {
    size keys = round_up(T, ALIGN), wide = round_up(S, W), qk_row = (H + K) * S, qkv_row = (H + 2 * K) * S;
    float *k_t = scratch, *v = k_t + S * keys, *scores = v + keys * wide, *q = scores + ROWS * keys,
          *o = q + ROWS * wide, scale = 1.0f / sqrtf((float)S);
    for (size b = 0; b < B; b++)
        for (size h = 0; h < H; h++) {
            size group = h / (H / K);
            if (h % (H / K) == 0) {
                transpose(k_t, rotated + b * T * qk_row + (H + group) * S, qk_row, T, keys, S);
                copy_rows(v, wide, qkv + b * T * qkv_row + (H + K + group) * S, qkv_row, T, keys, S, 1);
            }
            for (size first = 0; first < T; first += ROWS) {
                size rows = T - first < ROWS ? T - first : ROWS, n = round_up(first + ROWS, 2 * W);
                n = n < keys ? n : keys;
                copy_rows(q, wide, rotated + (b * T + first) * qk_row + h * S, qk_row, rows, ROWS, S, scale);
                product(scores, keys, q, wide, 1, k_t, keys, ROWS, n, S, 0);
                float inverse[ROWS];
                for (size r = 0; r < ROWS; r++) {
                    float *row = scores + r * keys;
                    size seen = first + r + 1 < T ? first + r + 1 : T;
                    vec most = splat(-INFINITY);
                    for (size j = 0; j < seen; j += W)
                        most = larger(load_part(row + j, seen - j, -INFINITY), most);
                    float peak = largest(most), total = exponentials(row, seen, n, peak);
                    inverse[r] = 1.0f / total;
                    if (r < rows) log_sum[(b * T + first + r) * H + h] = peak + logf(total);
                }
                product(o, wide, scores, keys, 1, v, wide, ROWS, wide, first + ROWS < n ? first + ROWS : n, 0);
                for (size r = 0; r < rows; r++) {
                    float *to = mixed + ((b * T + first + r) * H + h) * S;
                    for (size s = 0; s < S; s++) to[s] = o[r * wide + s] * inverse[r];
                }
            }
        }
}

/* Gradients of rotated queries, of rotated keys and of values, into dqkv [M, (H + 2K) S]. */
void attention_backward(float *dqkv, const float *dmixed, const float *mixed, const float *log_sum,
                        const float *rotated, const float *qkv, float *scratch, size B, size T, size H, size K,
                        size S) {
    size keys = round_up(T, ALIGN), wide = round_up(S, W), qk_row = (H + K) * S, qkv_row = (H + 2 * K) * S;
    float *k_t = scratch, *v_t = k_t + S * keys, *k = v_t + S * keys, *dk = k + keys * wide,
          *dv = dk + keys * wide, *scores = dv + keys * wide, *slopes = scores + ROWS * keys,
          *q = slopes + ROWS * keys, *out = q + ROWS * wide, *dq = out + ROWS * wide,
          scale = 1.0f / sqrtf((float)S);
    for (size b = 0; b < B; b++)
        for (size h = 0; h < H; h++) {
            size group = h / (H / K);
            const float *key = rotated + b * T * qk_row + (H + group) * S,
                        *value = qkv + b * T * qkv_row + (H + K + group) * S;
            if (h % (H / K) == 0) {
                transpose(k_t, key, qk_row, T, keys, S);
                transpose(v_t, value, qkv_row, T, keys, S);
                copy_rows(k, wide, key, qk_row, T, keys, S, 1);
                memset(dk, 0, 2 * keys * wide * sizeof(float));
            }
            for (size first = 0; first < T; first += ROWS) {
                size rows = T - first < ROWS ? T - first : ROWS, n = round_up(first + ROWS, 2 * W);
                n = n < keys ? n : keys;
                size used = first + ROWS < n ? first + ROWS : n, token = b * T + first;
                copy_rows(q, wide, rotated + token * qk_row + h * S, qk_row, rows, ROWS, S, scale);
                copy_rows(out, wide, dmixed + (token * H + h) * S, H * S, rows, ROWS, S, 1);
                product(scores, keys, q, wide, 1, k_t, keys, ROWS, n, S, 0);
                product(slopes, keys, out, wide, 1, v_t, keys, ROWS, n, S, 0);
                for (size r = 0; r < ROWS; r++) {
                    float *row = scores + r * keys, *slope = slopes + r * keys, delta = 0;
                    size seen = r < rows ? first + r + 1 : 0;
                    const float *made = mixed + ((token + r) * H + h) * S;
                    vec dots = splat(0);
                    for (size s = 0; r < rows && s < S; s += W)
                        dots += load_part(made + s, S - s, 0) * load_part(out + r * wide + s, S - s, 0);
                    delta = sum(dots);
                    exponentials(row, seen, n, r < rows ? log_sum[(token + r) * H + h] : 0);
                    for (size j = 0; j < n; j++) slope[j] = row[j] * (slope[j] - delta);
                }
                product(dq, wide, slopes, keys, 1, k, wide, ROWS, wide, used, 0);
                product(dv, wide, scores, 1, keys, out, wide, used, wide, ROWS, 1);
                product(dk, wide, slopes, 1, keys, q, wide, used, wide, ROWS, 1);
                for (size r = 0; r < rows; r++)
                    for (size s = 0; s < S; s++)
                        dqkv[(token + r) * qkv_row + h * S + s] = dq[r * wide + s] * scale;
            }
            if ((h + 1) % (H / K) == 0)
                for (size t = 0; t < T; t++)
                    for (size s = 0; s < S; s++) {
                        float *to = dqkv + (b * T + t) * qkv_row + (H + group) * S + s;
                        to[0] = dk[t * wide + s];
                        to[K * S] = dv[t * wide + s];
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
            store_part(y + m * F + j, g / (1.0f + exponential(-g)) * u, F - j);
        }
    }
}

/* gate_up becomes its own gradient. */
void gated_backward(float *gate_up, const float *dy, size M, size F) {
    for (size m = 0; m < M; m++) {
        float *gate = gate_up + 2 * m * F, *up = gate + F;
        for (size j = 0; j < F; j += W) {
            vec g = load_part(gate + j, F - j, 0), u = load_part(up + j, F - j, 0);
            vec d = load_part(dy + m * F + j, F - j, 0), sigmoid = 1.0f / (1.0f + exponential(-g));
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
            if (V - j >= W) total += e;
            else for (size i = 0; i < V - j; i++) total[i] += e[i];
        }
        float denominator = sum(total), log_sum = peak + logf(denominator);
        float each = scale * (1.0f + 2.0f * z_loss * log_sum) / denominator;
        for (size j = 0; j < V; j++) row[j] *= each;
        row[targets[m]] -= scale;
        *loss += log_sum - target;
    }
}
