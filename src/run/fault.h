/* fault - places at which a test kills or stops the process: only in the build variant V=fault (-DSLUICE_FAULT_POINTS).
 * In every other build these do nothing, and no name of a point is in the binary.
 *
 * SLUICE_FAULT=NAME[:N][:ACTION]: the Nth passage (default 1) of the point says so on stderr and does ACTION:
 * kill (SIGKILL, the default), stop (SIGSTOP), or hang: the thread that passes it never goes on, the others do. An
 * unknown name or action ends the process at start. Any thread.
 *
 *   send.<command>    a command is about to be given to its connection; commands are those of command_name(), and
 *                     door, undoor: recovery's own lock and its removal; recover_requeue, recover_dead,
 *                     recover_ack: of a peer's entry
 *   answer.<command>  Redis has done it, and nobody here has seen the answer yet
 *   post.<message>    the coordinator is about to tell a shard; operations as op_<command>
 *   mail.<message>    a shard's message has reached the coordinator and is not handled yet
 *   read.<frame>      a worker's frame has been read and is not handled yet; also end, died (the worker itself)
 *   write.<frame>     a frame is about to be written to a worker */
#pragma once
#include "codec/command.h"
#include "core/turn.h"

/* A place where the process may be told to die, stop or hang: passed the armed number of times, it does. Any thread;
 * without V=fault it is nothing. */
void fault_point(const char *kind, const char *name);
/* Before a command goes out, as the inflight-th one on its thread that is not answered. */
void fault_send(uint32_t inflight, const struct cmd *c, const struct command_self *self);
void fault_answer(uint32_t inflight); /* of a command on this thread */
void fault_post(const struct msg *m);
/* A message between threads has arrived, before it is handled. */
void fault_mail(const struct msg *m);
/* A worker's frame was read, before it is handled. */
void fault_read(const struct frame *f);
/* A frame to a worker, before it is written. */
void fault_write(const struct out_frame *f);
/* --list-faults, and the check of $SLUICE_FAULT: true = the process ends with *status. */
bool fault_start(int argc, char **argv, int *status);
