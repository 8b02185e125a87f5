/* wolfSSL as a client of DTLS, with its own list of suites. */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>

static WOLFSSL *ssl;
static const struct settings *told;

static unsigned shared_key(WOLFSSL *session, const char *hint, char *identity, unsigned identity_room,
                           unsigned char *key, unsigned key_room) {
  (void)session;
  (void)hint;
  if (told->key_length > key_room)
    return 0;
  snprintf(identity, identity_room, "%s", told->identity);
  memcpy(key, told->key, told->key_length);
  return (unsigned)told->key_length;
}

static const char *tls_open(int fd, int port, const struct settings *settings) {
  told = settings;
  wolfSSL_Init();
  WOLFSSL_CTX *context = wolfSSL_CTX_new(wolfDTLSv1_2_client_method());
  if (!context)
    fail("context", 0);
  if (settings->key_length)
    wolfSSL_CTX_set_psk_client_callback(context, shared_key);
  ssl = wolfSSL_new(context);
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  wolfSSL_dtls_set_peer(ssl, &server, sizeof server);
  wolfSSL_set_fd(ssl, fd);
  if (wolfSSL_connect(ssl) != SSL_SUCCESS)
    fail("handshake", wolfSSL_get_error(ssl, 0));
  fcntl(fd, F_SETFL, O_NONBLOCK);
  wolfSSL_dtls_set_using_nonblock(ssl, 1);
  return wolfSSL_get_cipher_name(ssl);
}

static void tls_send(const unsigned char *bytes, int length) {
  int sent = wolfSSL_write(ssl, bytes, length);
  if (sent != length)
    fail("write", wolfSSL_get_error(ssl, sent));
}

static int tls_receive(unsigned char *bytes, int room) {
  return wolfSSL_read(ssl, bytes, room);
}
