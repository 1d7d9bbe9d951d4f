/* A network on loopback: a TCP proxy in front of a server.
 *
 *     network PORT TARGET ROUND_TRIP RATE
 *
 * It listens on PORT and connects to TARGET, both of 127.0.0.1. A byte arrives half a ROUND_TRIP (milliseconds) after it was
 * sent, and the first ones of a connection a whole one later, when the handshake of TCP would be over; that of TLS is made of
 * bytes. Each direction of a connection carries RATE megabytes (10^6 bytes) a second at most; 0 is no such bound. It is no model
 * of TCP: nothing is lost, and a new connection is as fast as an old one.
 *
 * One thread moves all bytes. Each direction of a connection is a pipe: bytes that were read wait in chunks until they are due,
 * and none are read while a full window waits. The end of a stream is an empty chunk, so a half-closed connection works. Pipes
 * that wait for a time form a list in the order of these times. Events are edge-triggered: each is followed to EAGAIN. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, BACKLOG = 4096, READ_SIZE = 64 * 1024, READS_A_TURN = 16 };
enum { LEAST_WINDOW = 256 * 1024, UNBOUND_WINDOW = 16 * 1024 * 1024 };
enum { TICK = 100 * 1000 }; /* Chunks due within it are due now: a wake-up serves many, and without a delay none is needed. */

typedef struct Chunk {
  struct Chunk *next;
  int64_t due;
  size_t size, sent;
  char bytes[];
} Chunk;

typedef struct Pipe {
  struct Connection *connection;
  struct Pipe *back;             /* the other direction */
  int from, to;
  bool readable, writable;       /* until the kernel says EAGAIN */
  bool ended;                    /* the sender sends no more */
  bool closed;                   /* the receiver knows that, or is gone */
  Chunk *first, *last;
  size_t held;                   /* bytes in chunks */
  int64_t free;                  /* when the link has taken all bytes that were read */
  int64_t wake;                  /* its time in the list; 0 if it is not in it */
  struct Pipe *earlier, *later;
} Pipe;

typedef struct Connection {
  Pipe pipes[2];                 /* from the client, and to it */
  bool dead;
  struct Connection *next;       /* of the dead */
} Connection;

static int poller, listener, timer, one = 1;
static struct sockaddr_in target;
static int64_t delay, armed;     /* nanoseconds, as all times */
static double byte_time;
static size_t window;
static Pipe *soonest, *latest;
static Connection *dead;
static char scratch[READ_SIZE];

static void fail(const char *call) {
  perror(call);
  exit(1);
}

static int64_t clock_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void stop_waiting(Pipe *pipe) {
  if (!pipe->wake) return;
  *(pipe->earlier ? &pipe->earlier->later : &soonest) = pipe->later;
  *(pipe->later ? &pipe->later->earlier : &latest) = pipe->earlier;
  pipe->wake = 0;
}

/* Most pipes get a later time than all others: the search for their place begins at the end. */
static void wait_until(Pipe *pipe, int64_t wake) {
  Pipe *before = latest;
  while (before && before->wake > wake) before = before->earlier;
  pipe->wake = wake;
  pipe->earlier = before;
  pipe->later = before ? before->later : soonest;
  *(before ? &before->later : &soonest) = pipe;
  *(pipe->later ? &pipe->later->earlier : &latest) = pipe;
}

static bool may_read(const Pipe *pipe) { return pipe->readable && !pipe->ended && pipe->held < window; }

static void append(Pipe *pipe, size_t size, int64_t now) {
  Chunk *chunk = malloc(sizeof *chunk + size);
  if (!chunk) fail("memory");
  if (pipe->free < now) pipe->free = now;
  *chunk = (Chunk){.due = pipe->free + delay, .size = size};
  memcpy(chunk->bytes, scratch, size);
  pipe->free += (int64_t)((double)size * byte_time);
  *(pipe->last ? &pipe->last->next : &pipe->first) = chunk;
  pipe->last = chunk;
  pipe->held += size;
}

static void drop_first(Pipe *pipe) {
  Chunk *chunk = pipe->first;
  pipe->held -= chunk->size;
  if (!(pipe->first = chunk->next)) pipe->last = NULL;
  free(chunk);
}

static void receive(Pipe *pipe, int64_t now) {
  while (may_read(pipe)) {
    ssize_t size = read(pipe->from, scratch, sizeof scratch);
    pipe->readable = size >= 0 || errno != EAGAIN;
    if (!pipe->readable) return;
    pipe->ended = size <= 0; /* A connection that is reset ends like one that is closed. */
    if (!pipe->closed) append(pipe, size > 0 ? (size_t)size : 0, now);
  }
}

static void deliver(Pipe *pipe, int64_t now) {
  while (pipe->first && pipe->writable && pipe->first->due < now + TICK) {
    Chunk *chunk = pipe->first;
    if (!chunk->size) {
      shutdown(pipe->to, SHUT_WR);
      pipe->closed = true;
    } else {
      ssize_t size = send(pipe->to, chunk->bytes + chunk->sent, chunk->size - chunk->sent, MSG_NOSIGNAL);
      pipe->writable = size >= 0 || errno != EAGAIN;
      if (!pipe->writable) return;
      if (size < 0) { /* The receiver is gone; its last bytes may still be on their way to the sender. */
        while (pipe->first) drop_first(pipe);
        pipe->closed = true;
        return;
      }
      chunk->sent += (size_t)size;
      if (chunk->sent < chunk->size) continue;
    }
    drop_first(pipe);
  }
}

static void end_if_closed(Connection *connection) {
  Pipe *pipes = connection->pipes;
  if (!pipes[0].closed || !pipes[1].closed) return;
  for (int side = 0; side < 2; side++) { /* Neither holds a chunk: the last one, or a failure, closed it. */
    stop_waiting(&pipes[side]);
    close(pipes[side].from);
  }
  connection->dead = true; /* An event of this turn may still name it: it is freed after the turn. */
  connection->next = dead;
  dead = connection;
}

static void move(Pipe *pipe, int64_t now) {
  if (pipe->connection->dead) return;
  stop_waiting(pipe);
  int turns = READS_A_TURN;
  do {
    receive(pipe, now);
    deliver(pipe, now);
  } while (may_read(pipe) && --turns);
  if (may_read(pipe)) wait_until(pipe, now + TICK); /* Others first. */
  else if (pipe->first && pipe->writable) wait_until(pipe, pipe->first->due);
  end_if_closed(pipe->connection);
}

static void watch(int fd, uint32_t events, void *data) {
  struct epoll_event event = {.events = events, .data.ptr = data};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void greet(int64_t now) {
  int client, server;
  while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    if ((server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) fail("socket");
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connect(server, (struct sockaddr *)&target, sizeof target); /* An error shows when the socket is read. */
    Connection *connection = calloc(1, sizeof *connection);
    if (!connection) fail("memory");
    Pipe *out = &connection->pipes[0], *in = &connection->pipes[1];
    *out = (Pipe){.connection = connection, .back = in, .from = client, .to = server, .free = now + 2 * delay};
    *in = (Pipe){.connection = connection, .back = out, .from = server, .to = client};
    watch(client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, out);
    watch(server, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, in);
  }
}

static void arm(void) {
  if (!soonest || soonest->wake == armed) return;
  armed = soonest->wake;
  struct itimerspec at = {.it_value = {.tv_sec = armed / 1000000000, .tv_nsec = armed % 1000000000}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int count, char **arguments) {
  if (count != 5) return fprintf(stderr, "usage: network PORT TARGET ROUND_TRIP_MS RATE_MB\n"), 2;
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  target = here;
  here.sin_port = htons((uint16_t)atoi(arguments[1]));
  target.sin_port = htons((uint16_t)atoi(arguments[2]));
  delay = (int64_t)(atof(arguments[3]) / 2 * 1e6);
  double rate = atof(arguments[4]);
  byte_time = rate > 0 ? 1e3 / rate : 0;
  /* Enough that the link never runs dry: the bytes that are under way, and some that wait for it. */
  window = rate > 0 ? LEAST_WINDOW + (size_t)((double)delay / byte_time) : UNBOUND_WINDOW;

  poller = epoll_create1(EPOLL_CLOEXEC);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, BACKLOG)) fail("listen");
  watch(listener, EPOLLIN, &listener);
  watch(timer, EPOLLIN, &timer);

  struct epoll_event events[EVENTS];
  for (;;) {
    arm();
    int ready = epoll_wait(poller, events, EVENTS, -1);
    int64_t now = clock_now();
    for (int at = 0; at < ready; at++) {
      uint64_t expirations;
      uint32_t what = events[at].events;
      if (events[at].data.ptr == &listener) greet(now);
      else if (events[at].data.ptr == &timer) armed = read(timer, &expirations, sizeof expirations) > 0 ? 0 : armed;
      else {
        Pipe *pipe = events[at].data.ptr;
        pipe->readable |= (what & ~(uint32_t)EPOLLOUT) != 0;
        pipe->back->writable |= (what & ~(uint32_t)(EPOLLIN | EPOLLRDHUP)) != 0;
        move(pipe, now);
        move(pipe->back, now);
      }
    }
    while (soonest && soonest->wake < now + TICK) move(soonest, now);
    for (Connection *next; dead; dead = next) {
      next = dead->next;
      free(dead);
    }
  }
}
