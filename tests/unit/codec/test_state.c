#include "codec/state.h"

#include <criterion/criterion.h>
#include <string.h>

#define S(text) ((struct slice){text, sizeof(text) - 1})

static struct buf image;

static struct slice services[] = {{"orders", 6}, {"bills", 5}};
static struct slice leases[] = {{"5-1.00ff", 8}, {"6-0.00ff", 8}, {"", 0}};
static struct state_conn conns[] = {
	{.number = 7,
		.pid = 4711,
		.uid = 1000,
		.credits = 10000,
		.has_services = true,
		.key = {"0123456789abcdef0123456789abcdef", 32},
		.name = {"w\0x", 3},
		.told_until = 123456789012,
		.n_pings = 9,
		.input = {"{\"t\":", 5},
		.output = {"ping\n", 5},
		.services = services,
		.n_services = 2,
		.leases = leases,
		.n_leases = 3},
	{.number = 8, .pid = -1, .told_until = -5},
};

static void up(void)
{
	buf_init(&image);
	state_encode(&image, &(struct state){.saved_at = 42, .node = S("n1"), .conns = conns, .n_conns = 2});
}

static void down(void)
{
	buf_fini(&image);
}

static void expect_slice(struct slice got, struct slice want)
{
	cr_assert_eq(got.len, want.len);
	cr_assert(want.len == 0 || memcmp(got.p, want.p, want.len) == 0);
}

static enum err_code decode(struct state *s)
{
	struct err err;
	enum err_code code = state_decode(image.data, image.len, s, &err);
	cr_assert(code == ERR_OK || err.text[0]);
	return code;
}

Test(state, comes_back_as_it_was, .init = up, .fini = down)
{
	struct state s;
	cr_assert_eq(decode(&s), ERR_OK);
	cr_assert_eq(s.saved_at, 42);
	expect_slice(s.node, S("n1"));
	cr_assert_eq(s.n_conns, 2u);
	const struct state_conn *a = &s.conns[0], *b = &s.conns[1];
	cr_assert(a->number == 7 && a->pid == 4711 && a->uid == 1000 && a->credits == 10000 && a->has_services);
	cr_assert(a->told_until == 123456789012 && a->n_pings == 9 && a->n_services == 2 && a->n_leases == 3);
	expect_slice(a->key, conns[0].key);
	expect_slice(a->name, conns[0].name);
	expect_slice(a->input, conns[0].input);
	expect_slice(a->output, conns[0].output);
	expect_slice(a->services[1], services[1]);
	expect_slice(a->leases[0], leases[0]);
	expect_slice(a->leases[1], leases[1]);
	cr_assert(b->number == 8 && b->pid == -1 && b->told_until == -5 && !b->has_services && !b->n_services &&
		  !b->n_leases);
	state_fini(&s);
}

Test(state, nothing_is_a_state_too)
{
	struct state s;
	buf_init(&image);
	state_encode(&image, &(struct state){0});
	cr_assert_eq(decode(&s), ERR_OK);
	cr_assert_eq(s.n_conns, 0u);
	state_fini(&s);
	buf_fini(&image);
}

Test(state, every_changed_byte_is_noticed, .init = up, .fini = down)
{
	struct state s;
	for (size_t i = 0; i < image.len; i++) {
		image.data[i] ^= 0x20;
		cr_assert_neq(decode(&s), ERR_OK, "byte %zu", i);
		image.data[i] ^= 0x20;
	}
	cr_assert_eq(decode(&s), ERR_OK);
	state_fini(&s);
}

Test(state, every_cut_is_noticed, .init = up, .fini = down)
{
	struct state s;
	struct err err;
	for (size_t n = 0; n < image.len; n++)
		cr_assert_neq(state_decode(image.data, n, &s, &err), ERR_OK, "%zu bytes", n);
	buf_add(&image, "x", 1);
	cr_assert_eq(decode(&s), ERR_INVALID);
}

Test(state, another_version_is_named, .init = up, .fini = down)
{
	struct state s;
	struct err err;
	image.data[8]++;
	cr_assert_eq(state_decode(image.data, image.len, &s, &err), ERR_RANGE);
	cr_assert(strstr(err.text, "version 2"));
}

static void put(size_t at, unsigned n_bytes, uint64_t v)
{
	for (unsigned i = 0; i < n_bytes; i++)
		image.data[at + i] = (char)(v >> (8 * i) & 0xff);
}

/* A good checksum over counts that lie. */
Test(state, counts_that_lie_are_refused, .init = up, .fini = down)
{
	struct state s;
	size_t at_count = 32 + 8 + 4 + 2;
	static const uint32_t counts[] = {0, 1, 3, 70000, 0xffffffff};
	for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
		put(at_count, 4, counts[i]);
		put(24, 8, state_checksum(image.data + 32, image.len - 32));
		cr_assert_eq(decode(&s), ERR_INVALID, "%u", counts[i]);
	}
}
