#include "letterbox.h"

#include <string.h>

#if defined(LETTERBOX_PLAIN)
#elif defined(__GNUC__) && defined(__x86_64__)
#define LETTERBOX_AVX2
#include <immintrin.h>
#elif defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)
#define LETTERBOX_NEON
#include <arm_neon.h>
#endif

/* So many columns of the scaled image are made at a time; what they need lies on the stack. */
#define STRIP 256

/* Walks along one side of the scaled image. Position number x, in 1/256 of a source pixel, is
 * floor(((2x + 1) * old - new) * 128 / new + 1/2); adding the same fraction again and again gives
 * it without a division a pixel. */
typedef struct {
    int64_t quotient, remainder; /* the position and the rest over `divisor` */
    int64_t step, step_remainder, divisor;
    int last; /* the last source pixel */
} walk;

/* What one output pixel is mixed from: two neighbours, the second with weight / 256. */
typedef struct {
    int first, second, weight;
} taps;

/* Some columns of the scaled image; their taps count bytes of a source row, not pixels. */
typedef struct {
    taps columns[STRIP];
    int count;
    int quick; /* how many, from the left, vector instructions may mix */
} strip;

static int64_t floor_divide(int64_t dividend, int64_t divisor) {
    int64_t quotient = dividend / divisor;
    return quotient - (dividend % divisor < 0);
}

static walk start_walk(int old_side, int new_side) {
    walk w;
    int64_t first = 256 * (int64_t)old_side - 255 * (int64_t)new_side;
    w.divisor = 2 * (int64_t)new_side;
    w.quotient = floor_divide(first, w.divisor);
    w.remainder = first - w.quotient * w.divisor;
    w.step = 512 * (int64_t)old_side / w.divisor;
    w.step_remainder = 512 * (int64_t)old_side % w.divisor;
    w.last = old_side - 1;
    return w;
}

static taps next_taps(walk *w) {
    taps t;
    int64_t position = w->quotient;
    if (position < 0) position = 0;
    if (position > (int64_t)w->last * 256) position = (int64_t)w->last * 256;
    t.first = (int)(position >> 8);
    t.second = t.first < w->last ? t.first + 1 : w->last;
    t.weight = (int)(position & 255);
    w->quotient += w->step;
    w->remainder += w->step_remainder;
    if (w->remainder >= w->divisor) {
        w->remainder -= w->divisor;
        w->quotient += 1;
    }
    return t;
}

/* Vector instructions read a pixel and the next as 8 bytes, and what they write spills over the
 * next two pixels: neither may pass the end of its row. */
static void next_strip(strip *s, walk *columns, int left, int channels) {
    int row_bytes = (columns->last + 1) * channels;
    s->count = left < STRIP ? left : STRIP;
    s->quick = 0;
    for (int x = 0; x < s->count; x++) {
        taps t = next_taps(columns);
        t.first *= channels;
        t.second *= channels;
        s->columns[x] = t;
        if (t.first + 8 <= row_bytes && x < s->count - 2) s->quick = x + 1;
    }
}

static int scaled_side(int side, int longest, int size) {
    int64_t scaled = (2 * (int64_t)side * size + longest) / (2 * (int64_t)longest);
    return scaled < 1 ? 1 : (int)scaled;
}

letterbox_area letterbox_place(int width, int height, int size) {
    letterbox_area area;
    int longest = width > height ? width : height;
    area.width = scaled_side(width, longest, size);
    area.height = scaled_side(height, longest, size);
    area.left = (size - area.width) / 2;
    area.top = (size - area.height) / 2;
    return area;
}

/* The contract, a pixel at a time. Every sum stays below 2^24. */
static void mix_plainly(const uint8_t *upper, const uint8_t *lower, int weight, const taps *column,
                        int count, uint8_t *target) {
    for (const taps *end = column + count; column < end; column++) {
        const uint8_t *a = upper + column->first, *b = upper + column->second;
        const uint8_t *c = lower + column->first, *d = lower + column->second;
        for (int colour = 0; colour < 3; colour++) {
            int above = a[colour] * (256 - column->weight) + b[colour] * column->weight;
            int below = c[colour] * (256 - column->weight) + d[colour] * column->weight;
            *target++ = (uint8_t)((above * (256 - weight) + below * weight + 32768) >> 16);
        }
    }
}

/* The same by vector instructions, down before across, which is all the same to whole numbers.
 * `mix_quickly` does as many of `count` pixels as it can, spills over the two after them, and
 * returns how many it did: none where the processor or the compiler does not go along. */
#if defined(LETTERBOX_AVX2)
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i read_two(const uint8_t *row, const taps *columns) {
    const void *places[2] = {row + columns[0].first, row + columns[1].first};
    __m128i first = _mm_loadl_epi64((const __m128i *)places[0]);
    __m128i second = _mm_loadl_epi64((const __m128i *)places[1]);
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi64(first, second));
}

AVX2 static inline __m256i weigh_two(const taps *columns) {
    __m128i first = _mm_set1_epi32((columns[0].weight << 16) + 256 - columns[0].weight);
    __m128i second = _mm_set1_epi32((columns[1].weight << 16) + 256 - columns[1].weight);
    return _mm256_set_m128i(second, first);
}

AVX2 static inline __m256i mix_two(const uint8_t *upper, const uint8_t *lower, int channels,
                                   __m256i above, __m256i below, const taps *columns) {
    /* the products across are of signed numbers: 32768 comes off before them, and back after */
    const __m256i off = _mm256_set1_epi16(-32768);
    const __m256i back = _mm256_set1_epi32(256 * 32768 + 32768);
    __m256i down = _mm256_add_epi16(_mm256_mullo_epi16(read_two(upper, columns), above),
                                    _mm256_mullo_epi16(read_two(lower, columns), below));
    down = _mm256_xor_si256(down, off);
    __m256i next = channels == 3 ? _mm256_srli_si256(down, 6) : _mm256_srli_si256(down, 8);
    __m256i sums = _mm256_madd_epi16(_mm256_unpacklo_epi16(down, next), weigh_two(columns));
    return _mm256_srli_epi32(_mm256_add_epi32(sums, back), 16);
}

AVX2 static int mix_by_avx2(const uint8_t *upper, const uint8_t *lower, int weight, int channels,
                            const taps *columns, int count, uint8_t *target) {
    const __m256i above = _mm256_set1_epi16((short)(256 - weight));
    const __m256i below = _mm256_set1_epi16((short)weight);
    const __m128i three_of_four =
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    int x = 0;
    for (; x + 4 <= count; x += 4) {
        __m256i a = mix_two(upper, lower, channels, above, below, columns + x);
        __m256i b = mix_two(upper, lower, channels, above, below, columns + x + 2);
        __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), a);
        __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
        __m128i pixels = _mm_shuffle_epi8(_mm_unpacklo_epi32(even, odd), three_of_four);
        memcpy(target + 3 * x, &pixels, 16);
    }
    return x;
}

static int mix_quickly(const uint8_t *upper, const uint8_t *lower, int weight, int channels,
                       const taps *columns, int count, uint8_t *target) {
    if (!__builtin_cpu_supports("avx2")) return 0;
    return mix_by_avx2(upper, lower, weight, channels, columns, count, target);
}
#elif defined(LETTERBOX_NEON)
static int mix_quickly(const uint8_t *upper, const uint8_t *lower, int weight, int channels,
                       const taps *columns, int count, uint8_t *target) {
    for (int x = 0; x < count; x++, columns++, target += 3) {
        uint16x8_t above = vmovl_u8(vld1_u8(upper + columns->first));
        uint16x8_t below = vmovl_u8(vld1_u8(lower + columns->first));
        uint16x8_t down = vmulq_n_u16(above, (uint16_t)(256 - weight));
        down = vmlaq_n_u16(down, below, (uint16_t)weight);
        uint16x8_t next = channels == 3 ? vextq_u16(down, down, 3) : vextq_u16(down, down, 4);
        uint32x4_t sums = vmull_n_u16(vget_low_u16(down), (uint16_t)(256 - columns->weight));
        sums = vmlal_n_u16(sums, vget_low_u16(next), (uint16_t)columns->weight);
        uint16x4_t pixel = vrshrn_n_u32(sums, 16);
        uint8x8_t bytes = vmovn_u16(vcombine_u16(pixel, pixel));
        memcpy(target, &bytes, 4);
    }
    return count;
}
#else
static int mix_quickly(const uint8_t *upper, const uint8_t *lower, int weight, int channels,
                       const taps *columns, int count, uint8_t *target) {
    (void)upper, (void)lower, (void)weight, (void)channels;
    (void)columns, (void)count, (void)target;
    return 0;
}
#endif

static void fill_strip(const strip *s, const uint8_t *source, int channels, ptrdiff_t source_stride,
                       walk rows, uint8_t *target, int height, ptrdiff_t target_stride) {
    for (int y = 0; y < height; y++, target += target_stride) {
        taps row = next_taps(&rows);
        const uint8_t *upper = source + row.first * source_stride;
        const uint8_t *lower = source + row.second * source_stride;
        int done = mix_quickly(upper, lower, row.weight, channels, s->columns, s->quick, target);
        mix_plainly(upper, lower, row.weight, s->columns + done, s->count - done,
                    target + 3 * done);
    }
}

int letterbox_rgb(const uint8_t *source, int width, int height, int source_channels,
                  ptrdiff_t source_stride, uint8_t *target, int size, ptrdiff_t target_stride) {
    if (!source || !target || (source_channels != 3 && source_channels != 4)) return -1;
    if (width < 1 || height < 1 || size < 1) return -1;
    if (width > LETTERBOX_LONGEST || height > LETTERBOX_LONGEST || size > LETTERBOX_LONGEST)
        return -1;

    letterbox_area area = letterbox_place(width, height, size);
    for (int y = 0; y < size; y++) memset(target + y * target_stride, 0, (size_t)size * 3);

    walk columns = start_walk(width, area.width), rows = start_walk(height, area.height);
    target += area.top * target_stride + 3 * area.left;
    for (int x = 0; x < area.width; x += STRIP) {
        strip s;
        next_strip(&s, &columns, area.width - x, source_channels);
        fill_strip(&s, source, source_channels, source_stride, rows, target + 3 * x, area.height,
                   target_stride);
    }
    return 0;
}
