/* Check this device against the recording: letterbox, input tensor, output, decisions and the
 * probabilities to show, every byte of them; probabilities to the ninth place.
 *
 *   cc -std=c99 -Wall -Wextra -Werror *.c -lm -o ../../self_test && ../../self_test ../../golden
 *
 * The model itself is not run: its recorded answer is compared and fed to the decisions.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "classifier.h"
#include "golden.h"
#include "letterbox.h"

#define SQUARE_BYTES ((size_t)WB_INPUT_SIZE * WB_INPUT_SIZE * 3)

static void stop(const char *what, const char *path)
{
    fprintf(stderr, "%s: %s\n", path, what);
    exit(2);
}

/* Read the file of a golden image: `header`, then `bytes` bytes, then nothing. */
static uint8_t *read_part(const char *folder, const char *name, const char *part,
                          const char *header, size_t bytes)
{
    char path[4096];
    uint8_t *data = malloc(bytes ? bytes : 1);
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, part);
    file = fopen(path, "rb");
    if (!file || !data)
        stop("cannot be opened", path);
    for (; *header; ++header)
        if (fgetc(file) != *header)
            stop("is not a PPM of the recorded size", path);
    if (fread(data, 1, bytes, file) != bytes || fgetc(file) != EOF)
        stop("is shorter or longer than it should be", path);
    fclose(file);
    return data;
}

static uint8_t *read_ppm(const char *folder, const char *name, const char *part, int width,
                         int height)
{
    char header[64];
    snprintf(header, sizeof header, "P6 %d %d 255\n", width, height);
    return read_part(folder, name, part, header, (size_t)width * (size_t)height * 3);
}

/* CRC-32: a letterbox that shrinks leaves pixels out, so the source is summed up beside it. */
static uint32_t sum_of(const uint8_t *data, size_t bytes)
{
    uint32_t sum = 0xffffffffu;
    for (size_t i = 0; i < bytes; ++i) {
        sum ^= data[i];
        for (int bit = 0; bit < 8; ++bit)
            sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1u)));
    }
    return ~sum;
}

static long differences(const uint8_t *one, const uint8_t *other, size_t bytes)
{
    long count = 0;
    for (size_t i = 0; i < bytes; ++i)
        count += one[i] != other[i];
    return count;
}

static long check(const char *what, const char *name, long count)
{
    if (count)
        printf("%s: %s differs in %ld places\n", name, what, count);
    return count;
}

static long check_pixels(const char *folder, const struct golden *vector)
{
    const char *name = vector->name;
    const int width = vector->width, height = vector->height;
    uint8_t *source = read_ppm(folder, name, "source.ppm", width, height);
    uint8_t *boxed = read_ppm(folder, name, "letterbox.ppm", WB_INPUT_SIZE, WB_INPUT_SIZE);
    uint8_t *input = read_part(folder, name, "input.bin", "", SQUARE_BYTES);
    uint8_t *square = malloc(SQUARE_BYTES), *tensor = malloc(SQUARE_BYTES);
    long wrong;
    if (!square || !tensor)
        stop("no memory", name);
    if (letterbox_rgb(source, width, height, 3, width * 3, square, WB_INPUT_SIZE, WB_INPUT_SIZE * 3))
        stop("has sides that are out of range", name);
    wb_fill_input(square, tensor);
    wrong = check("source", name, sum_of(source, (size_t)width * (size_t)height * 3) != vector->source);
    wrong += check("letterbox", name, differences(square, boxed, SQUARE_BYTES));
    wrong += check("input tensor", name, differences(tensor, input, SQUARE_BYTES));
    free(source);
    free(boxed);
    free(input);
    free(square);
    free(tensor);
    return wrong;
}

/* Each class stands once, none before one that is more probable, however many are asked for. */
static long check_order(const int8_t *raw)
{
    int classes[WB_CLASSES], first[1];
    long wrong = wb_top(raw, WB_CLASSES, classes) != WB_CLASSES, sum = 0;
    for (int i = 0; i < WB_CLASSES; ++i)
        sum += classes[i] - i;
    for (int i = 1; i < WB_CLASSES; ++i)
        wrong += wb_probability(raw, classes[i - 1]) < wb_probability(raw, classes[i]);
    return wrong + (sum != 0) + (wb_top(raw, 1, first) != 1) + (first[0] != classes[0]);
}

static long check_answer(const int8_t *raw, const struct golden *vector)
{
    int classes[WB_CLASSES];
    int count = wb_decide(raw, classes);
    long wrong = count != vector->count, bytes, shown = 0;
    for (int i = 0; i < count && !wrong; ++i)
        wrong = classes[i] != vector->classes[i];
    bytes = differences((const uint8_t *)raw, (const uint8_t *)vector->raw, WB_CLASSES);
    for (int i = 0; i < WB_CLASSES; ++i)
        shown += !(fabs(wb_probability(raw, i) - vector->shown[i]) < 1e-9);
    return check("output", vector->name, bytes) + check("decision", vector->name, wrong) +
           check("probability", vector->name, shown) +
           check("order", vector->name, check_order(raw));
}

/* Each output alone, then all of them as frames of one clip. */
static long check_answers(const char *folder)
{
    static int8_t frames[GOLDEN_COUNT * WB_CLASSES];
    int8_t clip[WB_CLASSES];
    long wrong = 0;
    for (int i = 0; i < GOLDEN_COUNT; ++i) {
        uint8_t *raw = read_part(folder, golden_vectors[i].name, "output.bin", "", WB_CLASSES);
        memcpy(frames + (size_t)i * WB_CLASSES, raw, WB_CLASSES);
        free(raw);
        wrong += check_answer(frames + (size_t)i * WB_CLASSES, &golden_vectors[i]);
    }
    wb_pool(frames, GOLDEN_COUNT, clip);
    return wrong + check_answer(clip, &golden_clip);
}

int main(int count, char **arguments)
{
    const char *folder = count > 1 ? arguments[1] : "golden";
    long wrong = 0;
    for (int i = 0; i < GOLDEN_COUNT; ++i)
        wrong += check_pixels(folder, &golden_vectors[i]);
    wrong += check_answers(folder);
    printf("%d images from pixels to decisions, %ld differences\n", GOLDEN_COUNT, wrong);
    return wrong != 0;
}
