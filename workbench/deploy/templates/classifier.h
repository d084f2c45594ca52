/* What the app does around the model: bytes in, labels out. C99, no dependencies.
 *
 *   letterbox_rgb(pixels, width, height, 3, width * 3, square, WB_INPUT_SIZE, WB_INPUT_SIZE * 3);
 *   wb_fill_input(square, input_tensor);
 *   ... run the model ...
 *   count = wb_decide(output_tensor, classes);      wb_labels[classes[0]] ...
 */
#ifndef WORKBENCH_CLASSIFIER_H
#define WORKBENCH_CLASSIFIER_H

#include <stdint.h>

#include "model_config.h"

/* Turn the letterboxed image into the bytes of the input tensor; both hold
 * WB_INPUT_SIZE * WB_INPUT_SIZE * 3 bytes. */
void wb_fill_input(const uint8_t *letterboxed, uint8_t *tensor);

/* Write the classes that the app shows and return how many there are; none means "nothing" or, for
 * a single label, "unknown". `classes` has room for WB_CLASSES. */
int wb_decide(const int8_t *raw, int *classes);

/* Turn the outputs of `count` frames of one clip, WB_CLASSES bytes each, into one output, which
 * wb_decide and wb_probability take. The thresholds ask for it where WB_POOLED_FRAMES is not 0. */
void wb_pool(const int8_t *frames, int count, int8_t *raw);

/* The probability to show beside a class, corrected by the calibration that ships; wb_decide does
 * not use it. */
double wb_probability(const int8_t *raw, int index);

/* Write the `count` most probable classes, the most probable first, and return how many there are. */
int wb_top(const int8_t *raw, int count, int *classes);

#endif
