#include "classifier.h"

#include <math.h>
#include <stddef.h>

void wb_fill_input(const uint8_t *letterboxed, uint8_t *tensor)
{
    const size_t bytes = (size_t)WB_INPUT_SIZE * WB_INPUT_SIZE * 3;
    for (size_t i = 0; i < bytes; ++i)
        tensor[i] = wb_input_table[letterboxed[i]];
}

static double value(const int8_t *raw, int index)
{
    return ((double)raw[index] - WB_OUTPUT_ZERO_POINT) * WB_OUTPUT_SCALE;
}

static double softmax(const int8_t *raw, int index)
{
    double highest = value(raw, 0), sum = 0;
    for (int i = 1; i < WB_CLASSES; ++i)
        if (value(raw, i) > highest)
            highest = value(raw, i);
    for (int i = 0; i < WB_CLASSES; ++i)
        sum += exp(value(raw, i) - highest);
    return exp(value(raw, index) - highest) / sum;
}

double wb_probability(const int8_t *raw, int index)
{
    if (!WB_IS_LOGITS)
        return value(raw, index);
    if (WB_SINGLE_LABEL)
        return softmax(raw, index);
    return 1 / (1 + exp(-value(raw, index)));
}

static int highest(const int8_t *raw)
{
    int best = 0;
    for (int i = 1; i < WB_CLASSES; ++i)
        if (raw[i] > raw[best])
            best = i;
    return best;
}

int wb_decide(const int8_t *raw, int *classes)
{
    int count = 0;
    if (WB_SINGLE_LABEL) {
        classes[0] = highest(raw);
        return wb_probability(raw, classes[0]) >= WB_UNKNOWN_BELOW;
    }
    for (int i = 0; i < WB_CLASSES; ++i)
        if (raw[i] >= wb_thresholds[i])
            classes[count++] = i;
    return count;
}
