#include "letterbox.h"

#include <string.h>

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
    int first, second;
    uint32_t weight;
} taps;

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
    t.weight = (uint32_t)(position & 255);
    w->quotient += w->step;
    w->remainder += w->step_remainder;
    if (w->remainder >= w->divisor) {
        w->remainder -= w->divisor;
        w->quotient += 1;
    }
    return t;
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

/* Every sum stays below 2^24. */
static uint8_t mix(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t fx, uint32_t fy) {
    uint32_t upper = a * (256 - fx) + b * fx;
    uint32_t lower = c * (256 - fx) + d * fx;
    return (uint8_t)((upper * (256 - fy) + lower * fy + 32768) >> 16);
}

static void mix_row(const uint8_t *upper, const uint8_t *lower, int channels, uint32_t fy,
                    walk columns, uint8_t *target, int count) {
    for (int x = 0; x < count; x++) {
        taps column = next_taps(&columns);
        size_t left = (size_t)column.first * (size_t)channels;
        size_t right = (size_t)column.second * (size_t)channels;
        for (int colour = 0; colour < 3; colour++, left++, right++)
            *target++ = mix(upper[left], upper[right], lower[left], lower[right], column.weight, fy);
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

    walk columns = start_walk(width, area.width);
    walk rows = start_walk(height, area.height);
    for (int y = 0; y < area.height; y++) {
        taps row = next_taps(&rows);
        mix_row(source + row.first * source_stride, source + row.second * source_stride,
                source_channels, row.weight, columns,
                target + (area.top + y) * target_stride + 3 * area.left, area.width);
    }
    return 0;
}
