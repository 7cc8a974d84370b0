"""Certificate authorities of openssl's command line, and Redis behind TLS."""
from lib.servers import free_port


class Authority:
    def __init__(self, t, name):
        self.t, self.name, self.n = t, name, 0
        self.crt, self.key = t.path(f"{name}.crt"), t.path(f"{name}.key")
        self.openssl("req", "-x509", *self.new_key(self.key), "-out", self.crt, "-days", "2", "-subj", f"/CN={name}")

    @staticmethod
    def new_key(path):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]

    def openssl(self, *args):
        p = self.t.run(["openssl", *args])
        assert p.returncode == 0, p.stderr

    def issue(self, name, san=None):
        """(certificate, key) for `san`, such as IP:127.0.0.1."""
        self.n += 1
        crt, key, csr, ext = (self.t.path(f"{self.name}.{self.n}.{x}") for x in ("crt", "key", "csr", "ext"))
        with open(ext, "w") as f:
            f.write(f"subjectAltName={san}\n" if san else "basicConstraints=CA:FALSE\n")
        self.openssl("req", *self.new_key(key), "-out", csr, "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", csr, "-CA", self.crt, "-CAkey", self.key, "-CAcreateserial", "-out", crt, "-days", "2",
                     "-extfile", ext)
        return crt, key


def tls_redis(t, ca, cert, key):
    """A redis-server that also listens with TLS and wants client certificates: (server, TLS endpoint)."""
    port = free_port()
    r = t.redis(args=["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca,
                      "--tls-auth-clients", "yes"])
    return r, f"{r.host}:{port}"
