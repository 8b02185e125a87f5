/* What a relay is told, for both libraries. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct settings {
  char identity[128];
  unsigned char key[64];
  size_t key_length;
  const char *cert, *key_file, *ca;
  int fragment;
};

static void fail(const char *what, int code) {
  printf("failed %s %d\n", what, code);
  exit(1);
}
