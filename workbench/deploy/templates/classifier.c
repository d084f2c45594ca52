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

static double logit(const int8_t *raw, int index)
{
    double chance = value(raw, index);
    if (WB_IS_LOGITS)
        return chance;
    if (chance < WB_FAINTEST)
        chance = WB_FAINTEST;
    if (chance > 1 - WB_FAINTEST)
        chance = 1 - WB_FAINTEST;
    return WB_SINGLE_LABEL ? log(chance) : log(chance / (1 - chance));
}

static double line(const int8_t *raw, int index, int calibrated)
{
    return calibrated ? wb_slope[index] * logit(raw, index) + wb_intercept[index]
                      : value(raw, index);
}

static double softmax(const int8_t *raw, int index, int calibrated)
{
    double highest = line(raw, 0, calibrated), sum = 0;
    for (int i = 1; i < WB_CLASSES; ++i)
        if (line(raw, i, calibrated) > highest)
            highest = line(raw, i, calibrated);
    for (int i = 0; i < WB_CLASSES; ++i)
        sum += exp(line(raw, i, calibrated) - highest);
    return exp(line(raw, index, calibrated) - highest) / sum;
}

static double probability(const int8_t *raw, int index, int calibrated)
{
    if (!WB_IS_LOGITS && !calibrated)
        return value(raw, index);
    if (WB_SINGLE_LABEL)
        return softmax(raw, index, calibrated);
    return 1 / (1 + exp(-line(raw, index, calibrated)));
}

double wb_probability(const int8_t *raw, int index)
{
    return probability(raw, index, WB_CALIBRATED);
}

int wb_top(const int8_t *raw, int count, int *classes)
{
    int found = 0;
    for (int i = 0; i < WB_CLASSES; ++i) {
        int place = found < count ? found++ : count;
        for (; place > 0 && wb_probability(raw, classes[place - 1]) < wb_probability(raw, i); --place)
            if (place < count)
                classes[place] = classes[place - 1];
        if (place < count)
            classes[place] = i;
    }
    return found;
}

void wb_pool(const int8_t *frames, int count, int8_t *raw)
{
    for (int i = 0; i < WB_CLASSES; ++i) {
        int32_t sum = 0; /* of values from 0 on, so that the division rounds down */
        for (int frame = 0; frame < count; ++frame)
            sum += frames[(size_t)frame * WB_CLASSES + (size_t)i] + 128;
        raw[i] = (int8_t)(sum / count - 128);
    }
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
        return probability(raw, classes[0], 0) >= WB_UNKNOWN_BELOW;
    }
    for (int i = 0; i < WB_CLASSES; ++i)
        if (raw[i] >= wb_thresholds[i])
            classes[count++] = i;
    return count;
}
