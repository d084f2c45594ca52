/* Check this device against the recording: letterbox, input tensor and decisions.
 *
 *   cc -std=c99 -Wall -Wextra -Werror *.c -lm -o self_test && ./self_test ../../golden
 *
 * The model itself is not run: its recorded output is fed to the decisions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "classifier.h"
#include "golden.h"
#include "letterbox.h"

#define SQUARE_BYTES ((size_t)WB_INPUT_SIZE * WB_INPUT_SIZE * 3)

struct image {
    int width, height;
    uint8_t *pixels;
};

static void stop(const char *what, const char *path)
{
    fprintf(stderr, "%s: %s\n", path, what);
    exit(2);
}

static FILE *open_part(const char *folder, const char *name, const char *part)
{
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, part);
    file = fopen(path, "rb");
    if (!file)
        stop("cannot be opened", path);
    return file;
}

static uint8_t *read_bytes(FILE *file, size_t bytes, const char *name)
{
    uint8_t *data = malloc(bytes ? bytes : 1);
    if (!data || fread(data, 1, bytes, file) != bytes)
        stop("is shorter than it should be", name);
    fclose(file);
    return data;
}

static struct image read_ppm(const char *folder, const char *name, const char *part)
{
    struct image image;
    FILE *file = open_part(folder, name, part);
    if (fscanf(file, "P6 %d %d 255", &image.width, &image.height) != 2 || fgetc(file) != '\n')
        stop("is not a PPM of ours", name);
    image.pixels = read_bytes(file, (size_t)image.width * (size_t)image.height * 3, name);
    return image;
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

static long check_pixels(const char *folder, const char *name)
{
    struct image source = read_ppm(folder, name, "source.ppm");
    struct image boxed = read_ppm(folder, name, "letterbox.ppm");
    uint8_t *input = read_bytes(open_part(folder, name, "input.bin"), SQUARE_BYTES, name);
    uint8_t *square = malloc(SQUARE_BYTES), *tensor = malloc(SQUARE_BYTES);
    long wrong;
    if (!square || !tensor)
        stop("no memory", name);
    if (letterbox_rgb(source.pixels, source.width, source.height, 3, source.width * 3, square,
                      WB_INPUT_SIZE, WB_INPUT_SIZE * 3))
        stop("has sides that are out of range", name);
    wb_fill_input(square, tensor);
    wrong = check("letterbox", name, differences(square, boxed.pixels, SQUARE_BYTES));
    wrong += check("input tensor", name, differences(tensor, input, SQUARE_BYTES));
    free(source.pixels);
    free(boxed.pixels);
    free(input);
    free(square);
    free(tensor);
    return wrong;
}

static long check_decisions(const char *folder, const struct golden *vector)
{
    uint8_t *raw = read_bytes(open_part(folder, vector->name, "output.bin"), WB_CLASSES, vector->name);
    int classes[WB_CLASSES];
    int count = wb_decide((const int8_t *)raw, classes);
    long wrong = count != vector->count;
    for (int i = 0; i < count && !wrong; ++i)
        wrong = classes[i] != vector->classes[i];
    free(raw);
    return check("decision", vector->name, wrong);
}

int main(int count, char **arguments)
{
    const char *folder = count > 1 ? arguments[1] : "golden";
    long wrong = 0;
    for (int i = 0; i < GOLDEN_COUNT; ++i) {
        wrong += check_pixels(folder, golden_vectors[i].name);
        wrong += check_decisions(folder, &golden_vectors[i]);
    }
    printf("%d images from pixels to decisions, %ld differences\n", GOLDEN_COUNT, wrong);
    return wrong != 0;
}
