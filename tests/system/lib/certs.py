"""A throw-away certificate authority for one test, by the openssl program, and Redis behind TLS."""
import os
import subprocess

from lib import servers

CONFIG = """[ca]
default_ca = x
[x]
dir = {dir}
new_certs_dir = {dir}
database = {dir}/index
serial = {dir}/serial
certificate = {dir}/ca.crt
private_key = {dir}/ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""


def openssl(*args):
    p = subprocess.run(["openssl", *args], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert p.returncode == 0, p.stdout


def new_key(path):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", path)


class Authority:
    def __init__(self, dir):
        self.dir, self.n = dir, 0
        os.makedirs(dir)
        self.crt = self.path("ca.crt")
        new_key(self.path("ca.key"))
        openssl("req", "-x509", "-new", "-key", self.path("ca.key"), "-days", "2", "-subj", "/CN=test authority", "-out", self.crt)
        for name, text in (("index", ""), ("serial", "1000\n"), ("config", CONFIG.format(dir=dir))):
            with open(self.path(name), "w") as f:
                f.write(text)

    def path(self, name):
        return os.path.join(self.dir, name)

    def issue(self, san, start="20200101000000Z", end="20991231000000Z"):
        """Certificate and key for IP:… or DNS:… names."""
        self.n += 1
        base = self.path(f"c{self.n}")
        new_key(base + ".key")
        with open(base + ".ext", "w") as f:
            f.write(f"subjectAltName={san}\n")
        openssl("req", "-new", "-key", base + ".key", "-subj", f"/CN=c{self.n}", "-out", base + ".csr")
        openssl("ca", "-batch", "-notext", "-config", self.path("config"), "-startdate", start, "-enddate", end,
                "-in", base + ".csr", "-extfile", base + ".ext", "-out", base + ".crt")
        return base + ".crt", base + ".key"

    def self_signed(self, san):
        self.n += 1
        base = self.path(f"c{self.n}")
        new_key(base + ".key")
        openssl("req", "-x509", "-new", "-key", base + ".key", "-days", "2", "-subj", f"/CN=c{self.n}",
                "-addext", f"subjectAltName={san}", "-out", base + ".crt")
        return base + ".crt", base + ".key"


def tls_redis(t, ca, pair, *args, **kw):
    """A real redis-server that also listens with this certificate and key: (server, "host:port" of the TLS port)."""
    port, (crt, key) = servers.free_port(), pair
    r = t.redis(args=["--tls-port", str(port), "--tls-cert-file", crt, "--tls-key-file", key, "--tls-ca-cert-file", ca.crt,
                      "--tls-auth-clients", "no", *args], **kw)
    return r, f"{r.host}:{port}"
