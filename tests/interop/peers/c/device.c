/* A LwM2M device on libcoap, for tests: device <uri> <endpoint> [name=value ...].
 * What it prints and takes is described in tests/interop/src/peer.rs. */
#include <coap3/coap.h>

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 0, LINKS = 40, TLV = 11542, LONGEST = 4096 };

typedef struct {
  const char *path;
  int id;
  int writable;
  int is_number;
  char text[LONGEST];
} value_t;

static value_t values[] = {
    {"3/0/0", 0, 0, 0, "zeelos interop"},     {"3/0/1", 1, 0, 0, "libcoap"},   {"3/0/15", 15, 1, 0, "UTC"},
    {"3/0/16", 16, 0, 0, "U"},                {"3303/0/5700", 5700, 0, 1, "20"}, {"3303/0/5750", 5750, 1, 0, "test"},
};
enum { VALUES = sizeof values / sizeof *values, TEMPERATURE = 4 };

static const char *instances[] = {"3/0", "3303/0"};
static char location[256];
static char lifetime[64] = "lt=300";
/* What the device waits for: the answer's class, or 0 while there is none. */
static int answered;
static int stopped;

static void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  putchar('\n');
  fflush(stdout);
}

static void fail(const char *what) {
  say("failed %s", what);
  exit(1);
}

static value_t *find(const coap_resource_t *resource) {
  coap_str_const_t *path = coap_resource_get_uri_path((coap_resource_t *)resource);
  for (int i = 0; i < VALUES; i++)
    if (path->length == strlen(values[i].path) && !memcmp(path->s, values[i].path, path->length))
      return &values[i];
  return NULL;
}

/* One resource with a value: type, identifier, length, value. */
static size_t record(uint8_t *out, const value_t *value) {
  uint8_t number[8];
  const uint8_t *raw = (const uint8_t *)value->text;
  size_t size = strlen(value->text), at = 1;
  if (value->is_number) {
    double parsed = atof(value->text);
    uint64_t bits;
    memcpy(&bits, &parsed, sizeof bits);
    for (int i = 0; i < 8; i++)
      number[i] = (uint8_t)(bits >> (56 - 8 * i));
    raw = number;
    size = sizeof number;
  }
  out[0] = 0xc0;
  if (value->id > 255) {
    out[0] |= 0x20;
    out[at++] = (uint8_t)(value->id >> 8);
  }
  out[at++] = (uint8_t)value->id;
  if (size < 8) {
    out[0] |= (uint8_t)size;
  } else if (size < 256) {
    out[0] |= 0x08;
    out[at++] = (uint8_t)size;
  } else {
    out[0] |= 0x10;
    out[at++] = (uint8_t)(size >> 8);
    out[at++] = (uint8_t)size;
  }
  memcpy(out + at, raw, size);
  return at + size;
}

/* The value in a TLV of one resource; -1 where it is none. */
static int value_in(const uint8_t *data, size_t length, const uint8_t **value) {
  if (length < 2 || data[0] >> 6 != 3)
    return -1;
  size_t at = data[0] & 0x20 ? 3 : 2, size = data[0] & 7;
  for (int width = data[0] >> 3 & 3; width; width--) {
    if (at >= length)
      return -1;
    size = size << 8 | data[at++];
  }
  if (at + size != length)
    return -1;
  *value = data + at;
  return (int)size;
}

static unsigned option_of(const coap_pdu_t *pdu, coap_option_num_t number, unsigned otherwise) {
  coap_opt_iterator_t iterator;
  coap_opt_t *option = coap_check_option(pdu, number, &iterator);
  return option ? coap_decode_var_bytes(coap_opt_value(option), coap_opt_length(option)) : otherwise;
}

static void release(coap_session_t *session, void *body) {
  (void)session;
  free(body);
}

static void answer(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                   const coap_string_t *query, coap_pdu_t *response, unsigned format, const uint8_t *body,
                   size_t length) {
  uint8_t *kept = malloc(length + 1);
  if (!kept)
    fail("memory");
  memcpy(kept, body, length);
  coap_pdu_set_code(response, COAP_RESPONSE_CODE_CONTENT);
  coap_add_data_large_response(resource, session, request, response, query, (uint16_t)format, -1, 0, length, kept,
                               release, kept);
}

static void get_value(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                      const coap_string_t *query, coap_pdu_t *response) {
  value_t *value = find(resource);
  unsigned format = option_of(request, COAP_OPTION_ACCEPT, TEXT);
  if (format == TEXT) {
    answer(resource, session, request, query, response, TEXT, (uint8_t *)value->text, strlen(value->text));
  } else if (format == TLV) {
    static uint8_t out[LONGEST + 8];
    answer(resource, session, request, query, response, TLV, out, record(out, value));
  } else {
    coap_pdu_set_code(response, COAP_RESPONSE_CODE_NOT_ACCEPTABLE);
  }
}

static void put_value(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                      const coap_string_t *query, coap_pdu_t *response) {
  (void)session;
  (void)query;
  value_t *value = find(resource);
  const uint8_t *data = NULL;
  size_t length = 0, offset = 0, total = 0;
  coap_get_data_large(request, &length, &data, &offset, &total);
  unsigned format = option_of(request, COAP_OPTION_CONTENT_FORMAT, TEXT);
  if (format == TLV) {
    int size = value_in(data, length, &data);
    length = size < 0 ? LONGEST : (size_t)size;
  } else if (format != TEXT) {
    coap_pdu_set_code(response, COAP_RESPONSE_CODE_UNSUPPORTED_CONTENT_FORMAT);
    return;
  }
  if (length >= LONGEST) {
    coap_pdu_set_code(response, COAP_RESPONSE_CODE_BAD_REQUEST);
    return;
  }
  memcpy(value->text, data, length);
  value->text[length] = 0;
  say("written /%s %s", value->path, value->text);
  coap_pdu_set_code(response, COAP_RESPONSE_CODE_CHANGED);
}

static void execute(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                    const coap_string_t *query, coap_pdu_t *response) {
  (void)resource;
  (void)session;
  (void)query;
  const uint8_t *data = NULL;
  size_t length = 0;
  coap_get_data(request, &length, &data);
  say("executed /3/0/4 %.*s", (int)length, data ? (const char *)data : "");
  coap_pdu_set_code(response, COAP_RESPONSE_CODE_CHANGED);
}

static void get_instance(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                         const coap_string_t *query, coap_pdu_t *response) {
  static uint8_t out[2 * LONGEST];
  size_t at = 0;
  coap_str_const_t *path = coap_resource_get_uri_path(resource);
  unsigned format = option_of(request, COAP_OPTION_ACCEPT, TLV);
  if (format == LINKS)
    at += (size_t)sprintf((char *)out, "</%.*s>", (int)path->length, path->s);
  for (int i = 0; i < VALUES; i++) {
    if (strncmp(values[i].path, (const char *)path->s, path->length) || values[i].path[path->length] != '/')
      continue;
    if (format == LINKS)
      at += (size_t)sprintf((char *)out + at, ",</%s>", values[i].path);
    else
      at += record(out + at, &values[i]);
  }
  if (format == LINKS || format == TLV)
    answer(resource, session, request, query, response, format, out, at);
  else
    coap_pdu_set_code(response, COAP_RESPONSE_CODE_NOT_ACCEPTABLE);
}

static coap_response_t take_answer(coap_session_t *session, const coap_pdu_t *sent, const coap_pdu_t *received,
                                   coap_mid_t id) {
  (void)session;
  (void)sent;
  (void)id;
  coap_opt_iterator_t iterator;
  coap_opt_filter_t wanted;
  coap_option_filter_clear(&wanted);
  coap_option_filter_set(&wanted, COAP_OPTION_LOCATION_PATH);
  coap_option_iterator_init(received, &iterator, &wanted);
  size_t at = 0;
  for (coap_opt_t *part = coap_option_next(&iterator); part; part = coap_option_next(&iterator))
    at += (size_t)snprintf(location + at, sizeof location - at, "/%.*s", (int)coap_opt_length(part),
                           coap_opt_value(part));
  answered = COAP_RESPONSE_CLASS(coap_pdu_get_code(received));
  return COAP_RESPONSE_OK;
}

static void no_answer(coap_session_t *session, const coap_pdu_t *sent, coap_nack_reason_t reason, coap_mid_t id) {
  (void)session;
  (void)sent;
  (void)id;
  say("failed exchange, reason %d", reason);
  answered = 5;
}

static void ask(coap_context_t *context, coap_session_t *session, const char *what, coap_pdu_code_t code,
                const char *path, const char *queries[], const char *body) {
  coap_pdu_t *pdu = coap_new_pdu(COAP_MESSAGE_CON, code, session);
  uint8_t token[8], format[2];
  size_t size;
  coap_session_new_token(session, &size, token);
  coap_add_token(pdu, size, token);
  char copy[sizeof location];
  snprintf(copy, sizeof copy, "%s", path);
  for (char *part = strtok(copy, "/"); part; part = strtok(NULL, "/"))
    coap_add_option(pdu, COAP_OPTION_URI_PATH, strlen(part), (uint8_t *)part);
  if (body)
    coap_add_option(pdu, COAP_OPTION_CONTENT_FORMAT, coap_encode_var_safe(format, sizeof format, LINKS), format);
  for (; *queries; queries++)
    coap_add_option(pdu, COAP_OPTION_URI_QUERY, strlen(*queries), (const uint8_t *)*queries);
  if (body)
    coap_add_data(pdu, strlen(body), (const uint8_t *)body);
  answered = 0;
  if (coap_send(session, pdu) == COAP_INVALID_MID)
    fail(what);
  while (!answered)
    coap_io_process(context, 100);
  if (answered != 2)
    fail(what);
}

static void command(coap_context_t *context, coap_session_t *session, coap_resource_t *temperature, char *line) {
  char *word = strtok(line, " \n");
  const char *with_lifetime[] = {lifetime, NULL}, *nothing[] = {NULL};
  if (word && !strcmp(word, "set")) {
    strtok(NULL, " \n");
    snprintf(values[TEMPERATURE].text, LONGEST, "%s", strtok(NULL, " \n"));
    coap_resource_notify_observers(temperature, NULL);
    say("value /3303/0/5700 %s", values[TEMPERATURE].text);
  } else if (word && !strcmp(word, "update")) {
    char path[sizeof location];
    snprintf(path, sizeof path, "%s", location);
    ask(context, session, "update", COAP_REQUEST_CODE_POST, path, with_lifetime, NULL);
    snprintf(location, sizeof location, "%s", path);
    say("updated");
  } else if (word && !strcmp(word, "deregister")) {
    char path[sizeof location];
    snprintf(path, sizeof path, "%s", location);
    ask(context, session, "deregistration", COAP_REQUEST_CODE_DELETE, path, nothing, NULL);
    say("deregistered");
  } else {
    say("unknown command");
  }
}

static coap_session_t *connected(coap_context_t *context, const coap_uri_t *uri, const char *psk) {
  coap_address_t server;
  coap_address_init(&server);
  server.size = sizeof server.addr.sin;
  server.addr.sin.sin_family = AF_INET;
  server.addr.sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  server.addr.sin.sin_port = htons(uri->port);
  if (uri->scheme == COAP_URI_SCHEME_COAP)
    return coap_new_client_session(context, NULL, &server, COAP_PROTO_UDP);
  if (!psk || !strchr(psk, ':'))
    fail("coaps needs psk=<identity>:<hex key>");
  static uint8_t key[64];
  static char identity[128];
  size_t size = strcspn(psk, ":"), length = 0;
  snprintf(identity, sizeof identity, "%.*s", (int)size, psk);
  for (const char *hex = psk + size + 1; hex[0] && hex[1] && length < sizeof key; hex += 2) {
    unsigned byte;
    sscanf(hex, "%2x", &byte);
    key[length++] = (uint8_t)byte;
  }
  coap_dtls_cpsk_t setup;
  memset(&setup, 0, sizeof setup);
  setup.version = COAP_DTLS_CPSK_SETUP_VERSION;
  setup.psk_info.identity.s = (uint8_t *)identity;
  setup.psk_info.identity.length = strlen(identity);
  setup.psk_info.key.s = key;
  setup.psk_info.key.length = length;
  return coap_new_client_session_psk2(context, NULL, &server, COAP_PROTO_DTLS, &setup);
}

int main(int count, char *words[]) {
  if (count < 3)
    fail("device <uri> <endpoint> [name=value ...]");
  const char *psk = NULL;
  for (int i = 3; i < count; i++) {
    if (!strncmp(words[i], "lifetime=", 9))
      snprintf(lifetime, sizeof lifetime, "lt=%s", words[i] + 9);
    else if (!strncmp(words[i], "psk=", 4))
      psk = words[i] + 4;
  }
  coap_startup();
  coap_context_t *context = coap_new_context(NULL);
  coap_context_set_block_mode(context, COAP_BLOCK_USE_LIBCOAP | COAP_BLOCK_SINGLE_BODY);
  coap_resource_t *temperature = NULL;
  for (int i = 0; i < VALUES; i++) {
    coap_resource_t *resource = coap_resource_init(coap_make_str_const(values[i].path), 0);
    coap_register_request_handler(resource, COAP_REQUEST_GET, get_value);
    if (values[i].writable)
      coap_register_request_handler(resource, COAP_REQUEST_PUT, put_value);
    coap_resource_set_get_observable(resource, 1);
    coap_add_resource(context, resource);
    if (i == TEMPERATURE)
      temperature = resource;
  }
  coap_resource_t *reboot = coap_resource_init(coap_make_str_const("3/0/4"), 0);
  coap_register_request_handler(reboot, COAP_REQUEST_POST, execute);
  coap_add_resource(context, reboot);
  for (size_t i = 0; i < sizeof instances / sizeof *instances; i++) {
    coap_resource_t *resource = coap_resource_init(coap_make_str_const(instances[i]), 0);
    coap_register_request_handler(resource, COAP_REQUEST_GET, get_instance);
    coap_add_resource(context, resource);
  }
  coap_register_response_handler(context, take_answer);
  coap_register_nack_handler(context, no_answer);
  coap_uri_t uri;
  if (coap_split_uri((uint8_t *)words[1], strlen(words[1]), &uri) < 0)
    fail("uri");
  coap_session_t *session = connected(context, &uri, psk);
  if (!session)
    fail("connection");
  say("started");

  char endpoint[160];
  snprintf(endpoint, sizeof endpoint, "ep=%s", words[2]);
  const char *queries[] = {endpoint, lifetime, "lwm2m=1.1", "b=U", NULL};
  ask(context, session, "registration", COAP_REQUEST_CODE_POST, "/rd", queries,
      "</>;rt=\"oma.lwm2m\";ct=11542,</1/0>,</3/0>,</3303/0>");
  say("registered %s", location);

  char line[LONGEST];
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  while (!stopped) {
    coap_io_process(context, 50);
    if (poll(&input, 1, 0) > 0) {
      /* One line a time; the tests write one and wait for its effect. */
      ssize_t length = read(STDIN_FILENO, line, sizeof line - 1);
      if (length <= 0)
        break;
      line[length] = 0;
      command(context, session, temperature, line);
    }
  }
  coap_session_release(session);
  coap_free_context(context);
  coap_cleanup();
  return 0;
}
