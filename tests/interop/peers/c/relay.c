/* Carries one device's plain CoAP over DTLS, so that any DTLS library can be under any device:
 *   relay <server's port> [psk=<identity>:<key, hex>] [cert=<pem> key=<pem> ca=<pem>] [fragment=<bytes>]
 * Behind one of mbedtls.c and wolfssl.c, which have tls_open, tls_send and tls_receive.
 * Prints "listening <port>", and "connected <suite>" or "failed <what>"; ends with its standard input. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int udp(int port, int connects) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct sockaddr *to = (struct sockaddr *)&address;
  if (fd < 0 || (connects ? connect(fd, to, sizeof address) : bind(fd, to, sizeof address)))
    fail("socket", 0);
  return fd;
}

static const char *setting(int count, char *words[], const char *name) {
  size_t length = strlen(name);
  for (int i = 2; i < count; i++)
    if (!strncmp(words[i], name, length) && words[i][length] == '=')
      return words[i] + length + 1;
  return NULL;
}

int main(int count, char *words[]) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count < 2)
    fail("relay <port> [name=value ...]", 0);
  static struct settings settings;
  settings.cert = setting(count, words, "cert");
  settings.key_file = setting(count, words, "key");
  settings.ca = setting(count, words, "ca");
  const char *fragment = setting(count, words, "fragment"), *psk = setting(count, words, "psk");
  settings.fragment = fragment ? atoi(fragment) : 0;
  if (psk) {
    size_t size = strcspn(psk, ":");
    snprintf(settings.identity, sizeof settings.identity, "%.*s", (int)size, psk);
    for (const char *hex = psk + size + 1; hex[0] && hex[1] && settings.key_length < sizeof settings.key; hex += 2) {
      unsigned byte;
      sscanf(hex, "%2x", &byte);
      settings.key[settings.key_length++] = (unsigned char)byte;
    }
  }
  int local = udp(0, 0);
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  getsockname(local, (struct sockaddr *)&address, &size);
  printf("listening %d\n", ntohs(address.sin_port));

  /* The device's first datagram says where it is; the session is made for it. */
  static unsigned char datagram[16384];
  struct pollfd ready[] = {{.fd = local, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
  if (poll(ready, 2, -1) < 0 || !(ready[0].revents & POLLIN))
    return 0;
  size = sizeof address;
  ssize_t length = recvfrom(local, datagram, sizeof datagram, 0, (struct sockaddr *)&address, &size);
  if (length < 0 || connect(local, (struct sockaddr *)&address, size))
    fail("device", 0);
  int remote = udp(atoi(words[1]), 1);
  printf("connected %s\n", tls_open(remote, atoi(words[1]), &settings));
  tls_send(datagram, (int)length);

  struct pollfd both[] = {
      {.fd = local, .events = POLLIN}, {.fd = remote, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
  while (poll(both, 3, -1) > 0) {
    if (both[2].revents)
      return 0;
    if (both[0].revents) {
      if ((length = recv(local, datagram, sizeof datagram, 0)) < 0)
        return 0;
      tls_send(datagram, (int)length);
    }
    if (both[1].revents)
      while ((length = tls_receive(datagram, sizeof datagram)) > 0)
        if (send(local, datagram, (size_t)length, 0) < 0)
          return 0;
  }
  return 0;
}
