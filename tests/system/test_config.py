"""Configuration: 40 wrong ones give exit 78 and one precise line; the right ones are shown back."""
import os
import re

from lib.daemon import program, yaml

issue = 2

GOOD = {"node": {"id": "n1"}, "redis": {"endpoints": ["127.0.0.1:6379"]}, "services": [{"name": "orders"}],
        "workers": {"socket": "/tmp/w.sock"}, "control": {"socket": "/tmp/c.sock"}}
HEAD = "services:\n  - name: orders\n"

# what is wrong: (file, line or None, word that the line must name after the position)
WRONG = {
    "empty file": ("", None, ""),
    "only a comment": ("# nothing\n", None, ""),
    "no service": ("node: {id: a}\n", None, "services"),
    "empty services": ("node: {id: a}\nservices: []\n", 2, "services"),
    "service without a name": ("services:\n  - max_streams: 5\n", 2, "name"),
    "empty service name": ("services:\n  - name: ''\n", 2, "name"),
    "two services of one name": (HEAD + "  - name: orders\n", 3, "name"),
    "unknown section": (HEAD + "nodes: {id: a}\n", 3, "nodes"),
    "unknown key": (HEAD + "redis:\n  endpoint: [a:1]\n", 4, "endpoint"),
    "unknown key in a service": (HEAD + "    lease: {ttll: 5s}\n", 3, "ttll"),
    "duplicate key": (HEAD + "log: {level: info}\nlog: {level: warn}\n", 4, "log"),
    "duplicate key inside": (HEAD + "redis:\n  db: 0\n  db: 1\n", 5, "db"),
    "section is a scalar": (HEAD + "redis: yes\n", 3, "redis"),
    "scalar is a map": (HEAD + "log:\n  level: {a: b}\n", 4, "level"),
    "services is a map": ("services: {name: orders}\n", 1, "services"),
    "endpoints is a scalar": (HEAD + "redis:\n  endpoints: 127.0.0.1:6379\n", 4, "endpoints"),
    "endpoints empty": (HEAD + "redis:\n  endpoints: []\n", 4, "endpoints"),
    "endpoint port 0": (HEAD + "redis:\n  endpoints: ['127.0.0.1:0']\n", 4, "endpoints"),
    "endpoint port 70000": (HEAD + "redis:\n  endpoints: ['127.0.0.1:70000']\n", 4, "endpoints"),
    "endpoint without port": (HEAD + "redis:\n  endpoints: [localhost]\n", 4, "endpoints"),
    "endpoint unix relative": (HEAD + "redis:\n  endpoints: ['unix:a/b']\n", 4, "endpoints"),
    "duration without unit": (HEAD + "redis:\n  command_timeout: 3\n", 4, "command_timeout"),
    "duration with a wrong unit": (HEAD + "redis:\n  command_timeout: 3 parsecs\n", 4, "command_timeout"),
    "negative duration": (HEAD + "redis:\n  command_timeout: -3s\n", 4, "command_timeout"),
    "ttl below 2 s": (HEAD + "    lease: {ttl: 1s}\n", 3, "ttl"),
    "huge number": (HEAD + "    max_streams: 99999999999999999999\n", 3, "max_streams"),
    "number with letters": (HEAD + "    max_streams: 12abc\n", 3, "max_streams"),
    "number with a comma": (HEAD + "    max_streams: 1,5\n", 3, "max_streams"),
    "max_streams 0": (HEAD + "    max_streams: 0\n", 3, "max_streams"),
    "bad boolean": (HEAD + "redis:\n  fail_fast: perhaps\n", 4, "fail_fast"),
    "bad enum": (HEAD + "redis:\n  topology: clutser\n", 4, "topology"),
    "bad log level": (HEAD + "log: {level: verbose}\n", 3, "level"),
    "bad percent": (HEAD + "    recovery: {jitter: 200%}\n", 3, "jitter"),
    "bad size": (HEAD + "workers:\n  max_frame: 1 potato\n", 4, "max_frame"),
    "size out of range": (HEAD + "workers:\n  max_frame: 12TiB\n", 4, "max_frame"),
    "relative socket path": (HEAD + "workers:\n  socket: run/w.sock\n", 4, "socket"),
    "socket path too long": (HEAD + "workers:\n  socket: /" + "x" * 120 + "\n", 4, "socket"),
    "bad mode": (HEAD + "workers:\n  mode: '0999'\n", 4, "mode"),
    "unknown group": (HEAD + "workers:\n  group: no-such-group-here\n", 4, "group"),
    "handoff retries 11": (HEAD + "maintenance:\n  max_handoff_retries: 11\n", 4, "max_handoff_retries"),
    "metrics port 0": (HEAD + "metrics: {listen: '127.0.0.1:0'}\n", 3, "listen"),
    "min_idle below 2 T": (HEAD + "    lease: {ttl: 20s}\n    recovery: {min_idle: 30s}\n", None, "min_idle"),
    "renew too late": (HEAD + "    lease: {ttl: 10s, renew_every: 4s, stop_margin: 4s}\n", None, ""),
    "stop_margin below 1 s": (HEAD + "    lease: {stop_margin: 500ms}\n", 3, "stop_margin"),
    "resume_grace not below T": (HEAD + "workers:\n  resume_grace: 10s\n", None, "resume_grace"),
    "not YAML": (HEAD + "redis: [a\n", None, ""),
    "tab for indentation": ("services:\n\t- name: orders\n", 2, ""),
    "anchor": (HEAD + "log: &a {level: info}\n", 3, ""),
    "alias": ("node: &a {id: x}\nservices: *a\n", None, ""),
    "two documents": (HEAD + "---\nnode: {id: b}\n", None, ""),
    "too deep": (HEAD + "log: " + "[" * 2000 + "]" * 2000 + "\n", 3, ""),
    "NUL byte": (HEAD + "node: {id: \"a\\0b\"}\n", 3, ""),
    "bad UTF-8": (HEAD.encode() + b"node: {id: \xff}\n", None, ""),
    "list at the top": ("- a\n- b\n", None, ""),
    "wrong topology for db": (HEAD + "redis: {topology: cluster, db: 3}\n", None, "db"),
    "tls cert without key": (HEAD + "redis:\n  tls: {enabled: true, cert_file: /etc/hostname}\n", None, "key_file"),
    "two passwords": (HEAD + "redis:\n  password: {file: /a, env: B}\n", None, "password"),
}


def write(t, text):
    path = t.path("sluiced.yaml")
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


def sluiced(t, *args, **env):
    return t.run([program("sluiced"), *args], timeout=20, env={**os.environ, **env})


def test_forty_wrong_configurations(t):
    assert len(WRONG) >= 40
    bad = []
    for what, (text, line, word) in WRONG.items():
        path = write(t, text)
        r = sluiced(t, "-c", path, "--check")
        out = r.stderr.splitlines()
        m = re.fullmatch(re.escape(path) + r":(\d+):(\d+): (.+)", out[0]) if len(out) == 1 else None
        if r.returncode != 78 or r.stdout or not m:
            bad.append(f"{what}: exit {r.returncode}, {len(out)} lines: {r.stderr[:300]}")
        elif (line and int(m[1]) != line) or word not in m[3] or not int(m[1]) or not int(m[2]):
            bad.append(f"{what}: expected line {line} and {word!r}: {out[0]}")
    assert not bad, "\n".join(bad)


def test_wrong_configuration_at_start_too(t):
    path = write(t, WRONG["bad enum"][0])
    r = sluiced(t, "-c", path)
    assert r.returncode == 78 and len(r.stderr.splitlines()) == 1 and re.search(r":4:\d+: redis\.topology: ", r.stderr), r.stderr


# maintenance: setting -> (first good, last good), (values beyond)
LIMITS = {"relaxed_timeout": (("100ms", "10m"), ("99ms", "601s")), "relaxed_cap": (("100ms", "60m"), ("0", "61m")),
          "post_handoff_relaxed": (("0", "60m"), ("-1s", "61m")), "handoff_timeout": (("100ms", "10m"), ("0", "601s")),
          "max_handoff_retries": ((1, 10), (0, 11)), "max_concurrent_handoffs": ((1, 1000), (0, 1001)),
          "handoff_queue": ((0, 100000), (-1, 100001)), "circuit_breaker.failures": ((1, 1000), (0, 1001)),
          "circuit_breaker.reset": (("100ms", "60m"), ("0", "61m")), "circuit_breaker.half_open": ((1, 100), (0, 101)),
          "mode": (("disabled", "enabled", "auto"), ("on", "")),
          "endpoint_type": (("auto", "internal-ip", "internal-fqdn", "external-ip", "external-fqdn", "none"), ("internal", ""))}


def test_limits_of_maintenance(t):
    """Each setting takes its limits and refuses what lies beyond, in one line that names it."""
    for key, (good, bad) in LIMITS.items():
        for value in (*good, *bad):
            cfg = {key: value} if "." not in key else {key.split(".")[0]: {key.split(".")[1]: value}}
            r = sluiced(t, "-c", write(t, yaml({**GOOD, "maintenance": cfg})), "--check")
            if value in good:
                assert r.returncode == 0 and not r.stderr, f"{key}: {value}: {r.stderr}"
            else:
                assert r.returncode == 78 and len(r.stderr.splitlines()) == 1 and f"maintenance.{key}: " in r.stderr, f"{key}: {value}: {r.stderr}"
    shown = sluiced(t, "--print-defaults").stdout.split("maintenance:")[1].split("\nmetrics:")[0]
    assert all(key.split(".")[-1] + ":" in shown for key in LIMITS), shown


def test_did_you_mean(t):
    for text, want in ((HEAD + "redis:\n  endpoint: [a:1]\n", "endpoints"), (HEAD + "redis:\n  topology: clutser\n", "cluster"),
                       (HEAD + "    leese: {ttl: 5s}\n", "lease"), ("servces:\n  - name: a\n", "services")):
        r = sluiced(t, "-c", write(t, text), "--check")
        assert re.search(rf"did you mean .*{want}", r.stderr), r.stderr


def test_key_paths_are_whole(t):
    r = sluiced(t, "-c", write(t, HEAD + "  - name: bills\n    lease: {ttl: x}\n"), "--check")
    assert re.search(r":4:\d+: services\S*\.lease\.ttl: ", r.stderr), r.stderr


def test_missing_file_and_usage(t):
    r = sluiced(t, "-c", t.path("nowhere.yaml"), "--check")
    assert r.returncode == 66 and len(r.stderr.splitlines()) == 1 and "nowhere.yaml" in r.stderr and "--print-defaults" in r.stderr
    assert sluiced(t, "-c", t.dir, "--check").returncode in (66, 78)
    for args in (["--nonsense"], ["-c"], ["extra"], ["--check=5"]):
        r = sluiced(t, *args)
        assert r.returncode == 64 and r.stderr, args


def test_unreadable_file(t):
    if os.getuid() == 0:
        return  # root reads everything
    path = write(t, yaml(GOOD))
    os.chmod(path, 0)
    assert sluiced(t, "-c", path, "--check").returncode == 77


def test_check_is_silent_about_a_good_file(t):
    r = sluiced(t, "-c", write(t, yaml(GOOD)), "--check")
    assert r.returncode == 0 and not r.stderr, r.stderr


def test_version_and_help(t):
    r = sluiced(t, "--version")
    assert r.returncode == 0 and re.search(r"sluiced \d+\.\d+", r.stdout)
    r = sluiced(t, "--help")
    assert r.returncode == 0 and all(o in r.stdout for o in ("--check", "--dump-config", "--print-defaults", "--version"))
    for p in ("sluicectl", "sluice-run"):
        for o in ("--version", "--help"):
            r = t.run([program(p), o])
            assert r.returncode == 0 and r.stdout, (p, o, r.stderr)


def test_print_defaults_is_a_good_file_with_every_setting(t):
    r = sluiced(t, "--print-defaults")
    assert r.returncode == 0
    for key in ("ttl", "renew_every", "stop_margin", "min_idle", "max_frame", "resume_grace", "keyspace_events", "circuit_breaker",
                "drain_timeout", "same_stream", "wait_replicas", "group_start", "endpoint_type", "allow_uids", "topology_refresh"):
        assert key in r.stdout, key
    assert "name:" in r.stdout
    r2 = sluiced(t, "-c", write(t, r.stdout), "--check")
    assert r2.returncode == 0, r2.stderr


def test_dump_config_shows_effective_values_origins_and_no_secrets(t):
    secret = t.path("secret")
    with open(secret, "w") as f:
        f.write("hunter2\n")
    cfg = {**GOOD, "redis": {"endpoints": ["10.0.0.1:6380"], "command_timeout": "2s", "password": {"file": secret}}}
    r = sluiced(t, "-c", write(t, yaml(cfg)), "--dump-config", SLUICED_LOG__LEVEL="debug")
    assert r.returncode == 0, r.stderr
    assert "hunter2" not in r.stdout + r.stderr and "***" in r.stdout
    row = {k: next(x for x in r.stdout.splitlines() if k in x) for k in ("command_timeout", "level:", "connect_timeout")}
    assert "2s" in row["command_timeout"] and "sluiced.yaml" in row["command_timeout"], row
    assert "debug" in row["level:"] and "SLUICED_LOG__LEVEL" in row["level:"], row
    assert "5s" in row["connect_timeout"] and "default" in row["connect_timeout"], row


def test_environment_overrides(t):
    path = write(t, yaml(GOOD))
    r = sluiced(t, "-c", path, "--dump-config", SLUICED_REDIS__COMMAND_TIMEOUT="1234ms", SLUICED_WORKERS__MAX_SESSIONS="7",
                SLUICED_REDIS__ENDPOINTS="10.9.8.7:1,10.9.8.7:2")
    assert r.returncode == 0 and "1234ms" in r.stdout and "10.9.8.7:2" in r.stdout, r.stdout + r.stderr
    for env in ({"SLUICED_REDIS__COMMAND_TIMEOUT": "later"}, {"SLUICED_REDIS__NONSENSE": "1"}):
        r = sluiced(t, "-c", path, "--check", **env)
        assert r.returncode == 78 and len(r.stderr.splitlines()) == 1 and next(iter(env)) in r.stderr, (env, r.stderr)


def test_socket_directory_missing_is_one_line(t):
    path = write(t, yaml({**GOOD, "workers": {"socket": t.path("no/such/dir/w.sock")}}))
    r = sluiced(t, "-c", path)
    assert r.returncode in (71, 77) and "w.sock" in r.stderr, r.stderr
