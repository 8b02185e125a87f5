/* Mbed TLS as a client of DTLS, with its own list of suites and all extensions it has. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/timing.h>
#include <mbedtls/x509_crt.h>

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

static mbedtls_ssl_context ssl;
static int line;

static void need(const char *what, int code) {
  if (code)
    fail(what, code);
}

static int line_send(void *context, const unsigned char *bytes, size_t length) {
  (void)context;
  ssize_t sent = send(line, bytes, length, 0);
  return sent < 0 ? MBEDTLS_ERR_SSL_INTERNAL_ERROR : (int)sent;
}

static int line_receive(void *context, unsigned char *bytes, size_t length) {
  (void)context;
  ssize_t received = recv(line, bytes, length, MSG_DONTWAIT);
  if (received < 0)
    return errno == EAGAIN ? MBEDTLS_ERR_SSL_WANT_READ : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
  return (int)received;
}

static const char *tls_open(int fd, int port, const struct settings *settings) {
  static mbedtls_ssl_config config;
  static mbedtls_entropy_context entropy;
  static mbedtls_ctr_drbg_context random;
  static mbedtls_timing_delay_context timer;
  static mbedtls_x509_crt chain, trusted;
  static mbedtls_pk_context key;
  (void)port;
  line = fd;
  mbedtls_ssl_init(&ssl);
  mbedtls_ssl_config_init(&config);
  mbedtls_entropy_init(&entropy);
  mbedtls_ctr_drbg_init(&random);
  mbedtls_x509_crt_init(&chain);
  mbedtls_x509_crt_init(&trusted);
  mbedtls_pk_init(&key);
  need("random", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
  need("defaults", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                               MBEDTLS_SSL_PRESET_DEFAULT));
  mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
  if (settings->key_length)
    need("psk", mbedtls_ssl_conf_psk(&config, settings->key, settings->key_length,
                                     (const unsigned char *)settings->identity, strlen(settings->identity)));
  if (settings->cert) {
    need("cert", mbedtls_x509_crt_parse_file(&chain, settings->cert));
    need("key", mbedtls_pk_parse_keyfile(&key, settings->key_file, NULL));
    need("ca", mbedtls_x509_crt_parse_file(&trusted, settings->ca));
    need("own", mbedtls_ssl_conf_own_cert(&config, &chain, &key));
    mbedtls_ssl_conf_ca_chain(&config, &trusted, NULL);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
  }
  if (settings->fragment)
    need("fragment", mbedtls_ssl_conf_max_frag_len(&config, settings->fragment == 512    ? MBEDTLS_SSL_MAX_FRAG_LEN_512
                                                            : settings->fragment == 1024 ? MBEDTLS_SSL_MAX_FRAG_LEN_1024
                                                                                         : MBEDTLS_SSL_MAX_FRAG_LEN_2048));
#if defined(MBEDTLS_SSL_DTLS_CONNECTION_ID)
  need("cid", mbedtls_ssl_conf_cid(&config, 0, MBEDTLS_SSL_UNEXPECTED_CID_IGNORE));
#endif
  need("setup", mbedtls_ssl_setup(&ssl, &config));
#if defined(MBEDTLS_SSL_DTLS_CONNECTION_ID)
  need("cid", mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, NULL, 0));
#endif
  if (settings->cert)
    need("name", mbedtls_ssl_set_hostname(&ssl, "gw"));
  mbedtls_ssl_set_bio(&ssl, NULL, line_send, line_receive, NULL);
  mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
  int code;
  while ((code = mbedtls_ssl_handshake(&ssl)) == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE)
    poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50);
  need("handshake", code);
  return mbedtls_ssl_get_ciphersuite(&ssl);
}

static void tls_send(const unsigned char *bytes, int length) {
  int sent = mbedtls_ssl_write(&ssl, bytes, (size_t)length);
  if (sent != length)
    fail("write", sent);
}

static int tls_receive(unsigned char *bytes, int room) {
  return mbedtls_ssl_read(&ssl, bytes, (size_t)room);
}
