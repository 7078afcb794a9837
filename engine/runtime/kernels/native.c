/* CPU kernels of the engine's fast path, in portable C with the vector extensions of GCC and Clang.
 *
 * Activations between kernels are float32 or bfloat16, like the weights; the residual stream and all sums are float32.
 * The KV cache is paged: a block holds TOKENS tokens of one layer. Keys are stored transposed,
 * [block][kv head][dimension][token], so that one vector holds a dimension of sixteen tokens and scores need no
 * horizontal sums; values are stored as [block][kv head][token][dimension].
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS 16
#define MAX_ROWS 12

typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2)));

static inline float bf16_to_float(uint16_t value) {
    union { uint32_t bits; float number; } u = {(uint32_t)value << 16};
    return u.number;
}

static inline uint16_t float_to_bf16(float value) { /* to nearest even, as torch does; NaN stays NaN */
    union { float number; uint32_t bits; } u = {value};
    if (value != value) return 0x7fc0;
    return (uint16_t)((u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16);
}

static inline float f32_to_float(float value) { return value; }
static inline float float_to_f32(float value) { return value; }
static inline f32x16 f32_vector(const float *p) { return *(const f32x16 *)p; }
static inline f32x16 bf16_vector(const uint16_t *p) {
    union { u32x16 bits; f32x16 numbers; } u;
    u.bits = __builtin_convertvector(*(const u16x16 *)p, u32x16) << 16;
    return u.numbers;
}

/* e^x for x <= 0 (softmax) with a relative error under 2e-7: Cephes' expf polynomial, vectorised by the compiler. */
static inline float exp_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = floorf(x * 1.44269504088896341f + 0.5f);
    x -= n * 0.693359375f;
    x -= n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    union { int32_t bits; float number; } power = {((int32_t)n + 127) << 23};
    return y * power.number;
}

#define T float
#define LOAD f32_to_float
#define STORE float_to_f32
#define VECTOR f32_vector
#define NAME(name) name##_f32
#include "native_template.h"
#undef T
#undef LOAD
#undef STORE
#undef VECTOR
#undef NAME

#define T uint16_t
#define LOAD bf16_to_float
#define STORE float_to_bf16
#define VECTOR bf16_vector
#define NAME(name) name##_bf16
#include "native_template.h"
