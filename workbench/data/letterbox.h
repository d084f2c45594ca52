/* Letterbox q8: the whole image, scaled by integer arithmetic, centred on a black square.
 *
 * C99, no dependencies, no allocation, no floating point, reentrant; with AVX2 or NEON where
 * they are, unless LETTERBOX_PLAIN is defined. The same bytes on every compiler and processor; the
 * training pipeline runs this very file.
 */
#ifndef LETTERBOX_H
#define LETTERBOX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the scaled image lies inside the square, in pixels. */
typedef struct {
    int left, top, width, height;
} letterbox_area;

/* Sides may be 1 to LETTERBOX_LONGEST pixels. */
#define LETTERBOX_LONGEST 1000000

letterbox_area letterbox_place(int width, int height, int size);

/* Letterbox `source` into `target`, size x size pixels of 3 bytes (red, green, blue).
 *
 * A source pixel has `source_channels` bytes: 3, or 4 of which the last is ignored. Strides are
 * the bytes from one row to the next; a negative stride walks upwards. The two images must not
 * overlap. Returns 0, or -1 when an argument is out of range (and then writes nothing).
 */
int letterbox_rgb(const uint8_t *source, int width, int height, int source_channels,
                  ptrdiff_t source_stride, uint8_t *target, int size, ptrdiff_t target_stride);

#ifdef __cplusplus
}
#endif

#endif
