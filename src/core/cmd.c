#include "core/cmd.h"

#include "base/mem.h"

#include <assert.h>

void entry_batch_free(struct entry_batch *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n; i++) {
		text_unref(b->v[i].stream);
		text_unref(b->v[i].info);
		text_unref(b->v[i].trace);
		mem_free(b->v[i].fields);
	}
	mem_free(b);
}

bool cmd_is_on_lbs(enum cmd_kind k)
{
	switch ((int)k) { /* what has keys of its own in that slot */
	case CMD_DEAD_ADD:
	case CMD_DLQ_LENGTH:
	case CMD_DLQ_RANGE:
	case CMD_DLQ_DEL:
	case CMD_TRIAL:
	case CMD_LEAVE:
	case CMD_BACK:
	case CMD_LEFT:
	case CMD_FLEET:
		return false;
	}
	return k >= CMD_GROUP_CREATE && k <= CMD_FORGET;
}

const char *dead_reason_name(enum dead_reason r)
{
	assert(r < DEAD_N);
	static const char *const reasons[DEAD_N] = {
		[DEAD_MAX_RETRIES] = "max_retries_exceeded",
		[DEAD_UNPARSEABLE] = "unparseable",
		[DEAD_TOO_LARGE] = "too_large",
		[DEAD_REJECTED] = "rejected",
		[DEAD_OPERATOR] = "operator",
		[DEAD_WRONG_TYPE] = "wrong_type",
		[DEAD_BAD_NAME] = "bad_name",
	};
	return reasons[r];
}

const char *entry_problem_text(enum entry_problem p)
{
	static const char *const texts[] = {
		[ENTRY_GOOD] = NULL,
		[ENTRY_NO_INPUT] = "there is no field lbs-input",
		[ENTRY_BAD_JSON] = "lbs-input is not JSON",
		[ENTRY_BAD_UTF8] = "lbs-input has bytes that are not UTF-8",
		[ENTRY_HALF_CHARACTER] =
			"lbs-input has half of a surrogate pair, such as \\ud800 alone, which is no character",
		[ENTRY_NO_OBJECT] = "lbs-input is not a JSON object",
		[ENTRY_NO_NAME] = "lbs-input has no DataStreamName that is a text of 1 to 65536 bytes without NUL",
		[ENTRY_DELETED] = "its data is gone",
	};
	return texts[p];
}
