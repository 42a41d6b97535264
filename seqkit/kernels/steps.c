/* What a decoding step does beside its matrix products, each in one pass over memory that is still in cache.

   PyTorch needs ten calls to round some rows to 8 bits and five for attention of a few queries, and every call writes
   all it finds and reads it again. native.py says what each function computes, in which shapes.

   Vectors are those of GCC and Clang, which divide them up where the machine's are shorter. Numbers that are not finite
   stay so: they must show. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define GROUP 64 /* neighbouring tokens of which the largest logit is noted */

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float half_vector __attribute__((vector_size(2 * LANES)));
typedef float quarter_vector __attribute__((vector_size(LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef int32_t half_integers __attribute__((vector_size(2 * LANES)));
typedef int32_t quarter_integers __attribute__((vector_size(LANES)));

INLINE vector load(const float *x)
{
    vector v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE void store(float *x, vector v)
{
    memcpy(x, &v, sizeof v);
}

/* The first few numbers, and the given one after them. */
INLINE vector load_some(const float *x, int64_t count, float rest)
{
    float all[LANES];
    for (int64_t i = 0; i < LANES; i++)
        all[i] = i < count ? x[i] : rest;
    return load(all);
}

INLINE vector every(float x)
{
    return x - (vector){0};
}

#define CHOOSE(mask, type, yes, no) (((type)(yes) & (mask)) | ((type)(no) & ~(mask)))

INLINE vector choose(integers mask, vector yes, vector no)
{
    return (vector)CHOOSE(mask, integers, yes, no);
}

INLINE vector larger(vector a, vector b)
{
    return choose(a > b, a, b);
}

INLINE float sum_of(vector v)
{
    half_vector halves[2];
    quarter_vector quarters[2], sum;
    memcpy(halves, &v, sizeof v);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof quarters);
    sum = quarters[0] + quarters[1];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

INLINE float largest_of(vector v)
{
    half_vector halves[2];
    quarter_vector quarters[2], most;
    memcpy(halves, &v, sizeof v);
    halves[0] = (half_vector)CHOOSE(halves[0] > halves[1], half_integers, halves[0], halves[1]);
    memcpy(quarters, halves, sizeof quarters);
    most = (quarter_vector)CHOOSE(quarters[0] > quarters[1], quarter_integers, quarters[0], quarters[1]);
    float first = most[0] > most[1] ? most[0] : most[1], second = most[2] > most[3] ? most[2] : most[3];
    return first > second ? first : second;
}

/* e to the x, for x up to 88, to 2e-7 of it; 0 below -87; NaN for NaN. */
INLINE vector exponential(vector x)
{
    const float to_whole = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    integers is_tiny = x < every(-87.0f);
    vector shifted = choose(is_tiny, every(-87.0f), x) * 1.44269504f + to_whole;
    vector whole = shifted - to_whole;
    /* ln 2 in two parts, so that their product with a whole number is exact (Cody and Waite 1980). */
    vector rest = choose(is_tiny, every(-87.0f), x) - whole * 0.693359375f + whole * 2.12194440e-4f;
    vector sum = rest * (1.0f / 5040.0f) + 1.0f / 720.0f;
    sum = sum * rest + 1.0f / 120.0f;
    sum = sum * rest + 1.0f / 24.0f;
    sum = sum * rest + 1.0f / 6.0f;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    vector power = (vector)(((integers)shifted << 23) + (127 << 23));
    return choose(is_tiny, every(0.0f), sum * power);
}

/* To whole numbers from 1 to 255, of which 128 stands for zero; returns the largest absolute value, or the smallest that
   a row is divided by. It is found by its bits, in whose order NaN is the largest. */
INLINE float round_row(uint8_t *whole, const float *x, int64_t size, float smallest)
{
    uint32_t bits, most = 0;
    float largest, factor;
    for (int64_t i = 0; i < size; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    memcpy(&largest, &most, sizeof largest);
    largest = largest < smallest ? smallest : largest;
    factor = 127.0f / largest;
    for (int64_t i = 0; i < size; i++)
        whole[i] = (uint8_t)(int32_t)(x[i] * factor + 128.5f);
    return largest;
}

void round_rows(uint8_t *whole, float *largest, const float *x, int64_t rows, int64_t size, float smallest)
{
    for (int64_t n = 0; n < rows; n++)
        largest[n] = round_row(whole + n * size, x + n * size, size, smallest);
}

void scale_rows(float *restrict y, const float *restrict largest, const float *restrict bias, int64_t rows,
                int64_t size)
{
    for (int64_t n = 0; n < rows; n++)
        for (int64_t i = 0; i < size; i++)
            y[n * size + i] = y[n * size + i] * largest[n] + bias[i];
}

void add_scaled_rows(float *restrict x, const float *restrict y, const float *restrict largest,
                     const float *restrict bias, int64_t rows, int64_t size)
{
    for (int64_t n = 0; n < rows; n++)
        for (int64_t i = 0; i < size; i++)
            x[n * size + i] += y[n * size + i] * largest[n] + bias[i];
}

/* Scaled as in scale_rows, then negative numbers to zero, then rounded. */
void scale_relu_round_rows(uint8_t *restrict whole, float *restrict largest, const float *restrict y,
                           const float *restrict largest_before, const float *restrict bias, float *restrict room,
                           int64_t rows, int64_t size, float smallest)
{
    for (int64_t n = 0; n < rows; n++) {
        for (int64_t i = 0; i < size; i++) {
            float number = y[n * size + i] * largest_before[n] + bias[i];
            room[i] = number < 0.0f ? 0.0f : number;
        }
        largest[n] = round_row(whole + n * size, room, size, smallest);
    }
}

/* The queries of one head of one source: scores, their softmax, the values' weighted sums. One after the other for all
   queries, so that none waits for the numbers of another. A row of scores has room for whole vectors. */
INLINE void attend_head(float *out, int64_t out_step, const float *q, int64_t q_step, const float *k, int64_t k_step,
                        const float *v, int64_t v_step, const float *bias, int64_t bias_step, float *scores,
                        int64_t queries, int64_t positions, int64_t vectors, float scale)
{
    int64_t filled = (positions + LANES - 1) / LANES * LANES, whole = positions / LANES * LANES;
    for (int64_t w = 0; w < queries; w++) {
        float *row = scores + w * filled;
        vector query[vectors];
        for (int64_t j = 0; j < vectors; j++)
            query[j] = load(q + w * q_step + j * LANES) * scale;
        if (whole < filled)
            store(row + whole, every(-INFINITY));
        for (int64_t p = 0; p < positions; p++) {
            vector sum = query[0] * load(k + p * k_step);
            for (int64_t j = 1; j < vectors; j++)
                sum += query[j] * load(k + p * k_step + j * LANES);
            row[p] = sum_of(sum);
        }
    }
    for (int64_t w = 0; w < queries; w++) {
        float *row = scores + w * filled;
        vector highest = every(-INFINITY), total = every(0.0f);
        for (int64_t p = 0; p < filled; p += LANES) {
            vector score = load(row + p);
            if (bias) {
                const float *from = bias + w * bias_step + p;
                score += p < whole ? load(from) : load_some(from, positions - whole, 0.0f);
                store(row + p, score);
            }
            highest = larger(score, highest);
        }
        highest = every(largest_of(highest));
        for (int64_t p = 0; p < filled; p += LANES) {
            vector weight = exponential(load(row + p) - highest);
            store(row + p, weight);
            total += weight;
        }
        vector share = every(1.0f / sum_of(total));
        for (int64_t p = 0; p < filled; p += LANES)
            store(row + p, load(row + p) * share);
    }
    for (int64_t w = 0; w < queries; w++) {
        const float *row = scores + w * filled;
        vector sums[vectors];
        for (int64_t j = 0; j < vectors; j++)
            sums[j] = every(0.0f);
        for (int64_t p = 0; p < positions; p++)
            for (int64_t j = 0; j < vectors; j++)
                sums[j] += row[p] * load(v + p * v_step + j * LANES);
        for (int64_t j = 0; j < vectors; j++)
            store(out + w * out_step + j * LANES, sums[j]);
    }
}

/* steps: how far apart neighbours are, of q by source, head and row; of k and of v by source, head and position;
   of bias by source and row. The width of a head is a multiple of the lanes. */
void attend(float *out, const float *q, const float *k, const float *v, const float *bias, float *scores,
            const int64_t *steps, int64_t sources, int64_t heads, int64_t queries, int64_t positions, int64_t width,
            float scale)
{
    for (int64_t b = 0; b < sources; b++)
        for (int64_t h = 0; h < heads; h++) {
            float *to = out + (b * queries * heads + h) * width;
            const float *from = q + b * steps[0] + h * steps[1], *mask = bias ? bias + b * steps[9] : 0;
            const float *keys = k + b * steps[3] + h * steps[4], *values = v + b * steps[6] + h * steps[7];
#define ATTEND(vectors)                                                                                               \
    attend_head(to, heads *width, from, steps[2], keys, steps[5], values, steps[8], mask, steps[10], scores, queries, \
                positions, vectors, scale)
            if (width == 64) /* so that all of it fits the registers */
                ATTEND(4);
            else if (width == 32)
                ATTEND(2);
            else
                ATTEND(width / LANES);
        }
}

/* The logits of a group, and the largest of them. */
INLINE float write_group(float *to, const float *from, vector factor, const float *bias)
{
    vector most = every(-INFINITY);
    for (int i = 0; i < GROUP; i += LANES) {
        vector logit = load(from + i);
        if (bias)
            logit = logit * factor + load(bias + i);
        store(to + i, logit);
        most = larger(logit, most);
    }
    return largest_of(most);
}

/* The logarithm of the sum of exponentials and the best tokens, in descending order, of equals the lower token first.
   With largest and bias, the logits are y * largest + bias. Blocked tokens count in the sum, but are never the best. */
void best_tokens(float *normalizer, float *top, int64_t *tokens, const float *y, const float *largest,
                 const float *bias, const int64_t *blocked, float *room, float *maxima, int64_t rows, int64_t size,
                 int64_t count, int64_t num_blocked)
{
    int64_t groups = (size + GROUP - 1) / GROUP;
    for (int64_t n = 0; n < rows; n++) {
        const float *row = y + n * size;
        vector factor = every(largest ? largest[n] : 1.0f);
        float highest = -INFINITY;
        for (int64_t g = 0; g < size / GROUP; g++) {
            int64_t i = g * GROUP;
            maxima[g] = bias ? write_group(room + i, row + i, factor, bias + i) : write_group(room + i, row + i, factor, 0);
        }
        if (size % GROUP) {
            float most = -INFINITY;
            for (int64_t i = size / GROUP * GROUP; i < groups * GROUP; i++) {
                room[i] = i >= size ? -INFINITY : bias ? row[i] * factor[0] + bias[i] : row[i];
                most = room[i] > most ? room[i] : most;
            }
            maxima[groups - 1] = most;
        }
        for (int64_t g = 0; g < groups; g++)
            highest = maxima[g] > highest ? maxima[g] : highest;
        vector sums[4] = {every(0.0f), every(0.0f), every(0.0f), every(0.0f)};
        for (int64_t i = 0; i < groups * GROUP; i += GROUP)
            for (int j = 0; j < 4; j++)
                sums[j] += exponential(load(room + i + j * LANES) - highest);
        normalizer[n] = highest + logf(sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])));
        for (int64_t j = 0; j < num_blocked; j++)
            room[blocked[j]] = -INFINITY;
        float *best = top + n * count;
        int64_t *ids = tokens + n * count, found = 0;
        for (int64_t g = 0; g < groups; g++) {
            if (found == count && !(maxima[g] > best[count - 1]))
                continue;
            for (int64_t i = g * GROUP; i < (g + 1) * GROUP && i < size; i++) {
                if (found == count && !(room[i] > best[count - 1]))
                    continue;
                int64_t place = found < count ? found++ : count - 1;
                for (; place > 0 && room[i] > best[place - 1]; place--) {
                    best[place] = best[place - 1];
                    ids[place] = ids[place - 1];
                }
                best[place] = room[i];
                ids[place] = i;
            }
        }
    }
}
