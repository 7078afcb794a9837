/* The kernels for one element type T; included by native.c once for float32 and once for bfloat16. */

/* residual[i] += delta[i] (if delta is given); out[i] = rms_norm(residual[i]) * weight, for each of `rows` rows. */
void NAME(add_rms_norm)(float *residual, const T *delta, const float *weight, T *out, int64_t rows, int64_t width,
                        float epsilon) {
#pragma omp parallel for schedule(static) if (rows * width > 32768)
    for (int64_t row = 0; row < rows; row++) {
        float *x = residual + row * width;
        T *o = out + row * width;
        float sum = 0;
        if (delta) {
            const T *d = delta + row * width;
            for (int64_t i = 0; i < width; i++) x[i] += LOAD(d[i]);
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
        float scale = 1.0f / sqrtf(sum / (float)width + epsilon);
        for (int64_t i = 0; i < width; i++) o[i] = STORE(x[i] * scale * weight[i]);
    }
}

/* out = silu(gate) * up, where each row of gate_up is [gate, up], each of `width`. */
void NAME(silu_mul)(const T *gate_up, T *out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > 8192)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = gate_up + row * 2 * width, *up = gate + width;
        T *o = out + row * width;
        for (int64_t i = 0; i < width; i++) {
            float g = LOAD(gate[i]);
            float e = exp_negative(g < 0 ? g : -g);
            float sigmoid = (g < 0 ? e : 1.0f) / (1.0f + e);
            o[i] = STORE(g * sigmoid * LOAD(up[i]));
        }
    }
}

static inline void NAME(norm_head)(const T *in, const float *weight, float *out, int64_t dim, float epsilon) {
    float sum = 0;
    for (int64_t i = 0; i < dim; i++) out[i] = LOAD(in[i]);
    if (!weight) return;
    for (int64_t i = 0; i < dim; i++) sum += out[i] * out[i];
    float scale = 1.0f / sqrtf(sum / (float)dim + epsilon);
    for (int64_t i = 0; i < dim; i++) out[i] *= scale * weight[i];
}

/* Split each row of qkv into heads, norm queries and keys (if weights are given), rotate them, scale the queries into
 * `queries` (float32), and write keys and values into the cache at slots[row] = block * TOKENS + place.
 * cosine and sine: [position][dim / 2]. */
void NAME(rotate_and_store)(const T *qkv, const float *q_norm, const float *k_norm, float norm_epsilon,
                            const float *cosine, const float *sine, const int64_t *positions, const int64_t *slots,
                            T *key_cache, T *value_cache, float *queries, int64_t rows, int64_t heads,
                            int64_t kv_heads, int64_t dim, float scale) {
    int64_t half = dim / 2;
#pragma omp parallel for schedule(static) if (rows > 4)
    for (int64_t row = 0; row < rows; row++) {
        const T *in = qkv + row * (heads + 2 * kv_heads) * dim;
        const float *c = cosine + positions[row] * half, *s = sine + positions[row] * half;
        int64_t block = slots[row] / TOKENS, place = slots[row] % TOKENS;
        float head[dim];
        for (int64_t h = 0; h < heads; h++) {
            float *q = queries + (row * heads + h) * dim;
            NAME(norm_head)(in + h * dim, q_norm, head, dim, norm_epsilon);
            for (int64_t i = 0; i < half; i++) {
                q[i] = (head[i] * c[i] - head[i + half] * s[i]) * scale;
                q[i + half] = (head[i + half] * c[i] + head[i] * s[i]) * scale;
            }
        }
        for (int64_t h = 0; h < kv_heads; h++) {
            T *k = key_cache + (block * kv_heads + h) * dim * TOKENS + place;
            T *v = value_cache + ((block * kv_heads + h) * TOKENS + place) * dim;
            NAME(norm_head)(in + (heads + h) * dim, k_norm, head, dim, norm_epsilon);
            for (int64_t i = 0; i < half; i++) {
                k[i * TOKENS] = STORE(head[i] * c[i] - head[i + half] * s[i]);
                k[(i + half) * TOKENS] = STORE(head[i + half] * c[i] + head[i] * s[i]);
            }
            memcpy(v, in + (heads + kv_heads + h) * dim, dim * sizeof(T));
        }
    }
}

/* The attention of ROWS query heads that share one KV head, over `blocks` blocks. limit[r]: how many tokens row r sees.
 * scores: ROWS x (blocks * TOKENS) floats; sums: ROWS x dim floats. */
static inline __attribute__((always_inline)) void NAME(attend_rows)(
    const int ROWS, const float *const *query, const int64_t *limit, const int32_t *table, int64_t blocks,
    const T *key_cache, const T *value_cache, int64_t kv_head, int64_t kv_heads, int64_t dim, float *scores,
    float *sums) {
    int64_t span = blocks * TOKENS;
    for (int64_t b = 0; b < blocks; b++) {
        const T *keys = key_cache + (table[b] * kv_heads + kv_head) * dim * TOKENS;
        f32x16 sum[MAX_ROWS];
        for (int r = 0; r < ROWS; r++) sum[r] = (f32x16){};
        for (int64_t d = 0; d < dim; d++) {
            f32x16 key = VECTOR(keys + d * TOKENS);
            for (int r = 0; r < ROWS; r++) sum[r] += key * query[r][d];
        }
        for (int r = 0; r < ROWS; r++) {
            float *score = scores + r * span + b * TOKENS;
            if ((b + 1) * TOKENS > limit[r])
                for (int64_t t = 0; t < TOKENS; t++)
                    if (b * TOKENS + t >= limit[r]) sum[r][t] = -INFINITY;
            *(f32x16 *)score = sum[r];
        }
    }
    float inverse[MAX_ROWS];
    int64_t longest = limit[ROWS - 1];
    for (int r = 0; r < ROWS; r++) {
        float top = -INFINITY, total = 0, *score = scores + r * span;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < span; i++) top = score[i] > top ? score[i] : top;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < span; i++) {
            float e = score[i] == -INFINITY ? 0.0f : exp_negative(score[i] - top);
            score[i] = e;
            total += e;
        }
        inverse[r] = 1.0f / total;
    }
    memset(sums, 0, ROWS * dim * sizeof(float));
    for (int64_t b = 0; b < blocks; b++) {
        const T *values = value_cache + (table[b] * kv_heads + kv_head) * TOKENS * dim;
        /* What lies behind the last token is another sequence's; even times zero it could be NaN. */
        int64_t tokens = longest - b * TOKENS < TOKENS ? longest - b * TOKENS : TOKENS;
        for (int64_t d = 0; d < dim; d += 16) {
            f32x16 sum[MAX_ROWS];
            for (int r = 0; r < ROWS; r++) sum[r] = *(f32x16 *)(sums + r * dim + d);
            for (int64_t t = 0; t < tokens; t++) {
                f32x16 value = VECTOR(values + t * dim + d);
                for (int r = 0; r < ROWS; r++) sum[r] += value * scores[r * span + b * TOKENS + t];
            }
            for (int r = 0; r < ROWS; r++) *(f32x16 *)(sums + r * dim + d) = sum[r];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int64_t d = 0; d < dim; d++) sums[r * dim + d] *= inverse[r];
}

/* Causal attention over the paged cache. A tile is up to `MAX_ROWS * kv_heads / heads` consecutive queries of one
 * sequence: tiles[i] = {first row, rows, position of the first row, sequence}. tables: [sequence][table_width].
 * dim is a multiple of 16. Returns 0, or 1 if memory ran out. */
int NAME(attend)(const float *queries, const T *key_cache, const T *value_cache, const int64_t *tiles,
                 int64_t tile_count, const int32_t *tables, int64_t table_width, T *out, int64_t heads,
                 int64_t kv_heads, int64_t dim) {
    int64_t group = heads / kv_heads, failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *scores = NULL;
        int64_t capacity = 0;
        float sums[MAX_ROWS * dim];
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t i = 0; i < tile_count; i++)
            for (int64_t kv_head = 0; kv_head < kv_heads; kv_head++) {
                const int64_t *tile = tiles + 4 * i;
                int64_t first = tile[0], rows = tile[1], position = tile[2];
                const int32_t *table = tables + tile[3] * table_width;
                int64_t blocks = (position + rows + TOKENS - 1) / TOKENS;
                if (blocks * TOKENS > capacity) {
                    free(scores);
                    capacity = blocks * TOKENS * 2;
                    scores = malloc(MAX_ROWS * capacity * sizeof(float));
                    if (!scores) {
                        capacity = 0;
                        failed = 1;
                        continue;
                    }
                }
                int64_t count = rows * group;
                for (int64_t done = 0; done < count; done += MAX_ROWS) {
                    int part = count - done < MAX_ROWS ? (int)(count - done) : MAX_ROWS;
                    const float *query[MAX_ROWS];
                    int64_t limit[MAX_ROWS];
                    for (int r = 0; r < part; r++) {
                        int64_t row = (done + r) / group, head = kv_head * group + (done + r) % group;
                        query[r] = queries + ((first + row) * heads + head) * dim;
                        limit[r] = position + row + 1;
                    }
#define ROWS_CASE(n)                                                                                                  \
    case n:                                                                                                           \
        NAME(attend_rows)(n, query, limit, table, blocks, key_cache, value_cache, kv_head, kv_heads, dim, scores,     \
                          sums);                                                                                      \
        break;
                    switch (part) {
                        ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5) ROWS_CASE(6)
                        ROWS_CASE(7) ROWS_CASE(8) ROWS_CASE(9) ROWS_CASE(10) ROWS_CASE(11) ROWS_CASE(12)
                    }
#undef ROWS_CASE
                    for (int r = 0; r < part; r++) {
                        int64_t row = (done + r) / group, head = kv_head * group + (done + r) % group;
                        T *o = out + ((first + row) * heads + head) * dim;
                        for (int64_t d = 0; d < dim; d++) o[d] = STORE(sums[r * dim + d]);
                    }
                }
            }
        free(scores);
    }
    return (int)failed;
}
