"""Runs the commands of the documents, as they stand there.

    docs.py PROGRAM

A comment before a block of commands says what becomes of it; tests/it/docs.rs sees to it that none is without:

    <!-- run -->                                  each command ends with 0, each curl is answered with 2xx
    <!-- run: refused with 409 -->                the curl is answered so instead
    <!-- run: again until TEXT -->                again and again, until its output holds the text
    <!-- run: in the background until COMMAND --> goes on until all documents are through; the command says when it is up
    <!-- run by: FILE -->                         the file runs the same commands
    <!-- not run: REASON -->

The documents are run one after the other by bash, in one new directory, against the server that the README starts. What
a block exports is there for the blocks after it.
"""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

import content

ROOT = pathlib.Path(__file__).resolve().parents[2]
# In the order in which somebody would read them.
DOCUMENTS = [
    "README.md",
    "docs/operate/enroll-a-device.md",
    "docs/api/README.md",
    "docs/api/pages.md",
    "docs/api/repetition.md",
    "docs/operate/push-certificate.md",
    "docs/operate/install.md",
    "docs/operate/backup.md",
]
PATIENCE = 60
OTHER_TOPIC = "com.apple.mgmt.External.11111111-1111-4111-8111-111111111111"
# Each curl tells its status, whatever becomes of its output.
PREAMBLE = r"""
set -euo pipefail
curl() { command curl --max-time 60 -w '%{stderr}\nstatus: %{http_code}\n' "$@"; }
sudo() { [ "$1" != -u ] || shift 2; "$@"; }
"""


class Block:
    def __init__(self, document, line, mark, text):
        self.place, self.mark, self.text = f"{document}:{line}", mark, text


class Failed(Exception):
    """A command of a document does not do what the document says."""


def blocks(document):
    """The blocks of commands of a document that are to be run."""
    lines = (ROOT / document).read_text().splitlines()
    found, number = [], 0
    while number < len(lines):
        mark = re.fullmatch(r"\s*<!-- run(: (?P<how>.*))? -->", lines[number])
        number += 1
        if not mark:
            continue
        indent = lines[number].index("```sh")
        begin = number + 1
        number = next(n for n in range(begin, len(lines)) if lines[n].strip() == "```")
        text = "\n".join(line[indent:] for line in lines[begin:number])
        found.append(Block(document, begin + 1, mark["how"] or "", text))
    return found


def free_ports(count):
    """Ports that nobody listens on; all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Reader:
    """Somebody who reads the documents and types what stands in them."""

    def __init__(self, program, directory):
        self.directory = directory
        self.place = directory / "sources"
        self.running = []
        programs = [directory / "bin", self.place / "target/release", *map(directory.joinpath, ("var/lib/muster", "keys"))]
        for each in [*programs, directory / "var/backups"]:
            each.mkdir(parents=True)
        for each in programs[:2]:
            (each / "muster").symlink_to(program)
        pushes, control, devices, admin = free_ports(4)
        # What the reader replaces by what is right here: all the rest is taken literally.
        self.replacements = {
            "127.0.0.1:2197": f"127.0.0.1:{pushes}",
            "127.0.0.1:2198": f"127.0.0.1:{control}",
            "127.0.0.1:8080": f"127.0.0.1:{admin}",
            "/var/": f"{directory}/var/",
            "/path/to/the/": f"{directory}/keys/",
            "simulate apns ": f"simulate apns --listen 127.0.0.1:{pushes} --control 127.0.0.1:{control} ",
        }
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "TERM") if name in os.environ},
            "PATH": f"{programs[0]}:{os.environ['PATH']}",
            "PASSWORD": "correct horse",
            # Where the trial listens, beside what it says by default.
            "MUSTER_PUBLIC_URL": f"https://localhost:{devices}",
            "MUSTER_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "BASH_ENV": str(directory / "preamble"),
        }
        self.exported = directory / "exported"
        self.exported.touch()
        (directory / "preamble").write_text(PREAMBLE)
        (self.place / "wifi.mobileconfig").write_bytes(content.profile())

    def script(self, text):
        for here, there in self.replacements.items():
            text = text.replace(here, there)
        return f"source {shlex.quote(str(self.exported))}\n{text}\nexport -p > {shlex.quote(str(self.exported))}\n"

    def start(self, text, **streams):
        return subprocess.Popen(
            ["bash", "-c", self.script(text)], cwd=self.place, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True, **streams,
        )

    def bash(self, text):
        """Runs commands to their end: exit code, output, errors."""
        process = self.start(text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output, errors

    def run(self, block):
        how, _, what = block.mark.partition(" until ")
        if how == "in the background":
            self.background(block, what)
            return
        end = time.monotonic() + PATIENCE
        while True:
            code, output, errors = self.bash(block.text)
            statuses = re.findall(r"^status: (\d+)$", errors, re.MULTILINE)
            expected = how.removeprefix("refused with ") if how.startswith("refused with ") else "2"
            wrong = [status for status in statuses if not status.startswith(expected)]
            if code != 0 or wrong or (expected != "2" and not statuses):
                raise Failed(f"{block.place}: ended with {code}, answered with {statuses}\n{output}\n{errors}")
            if how != "again" or what in output:
                break
            if time.monotonic() > end:
                raise Failed(f"{block.place}: {what} is not in the output after {PATIENCE} s\n{output}")
            time.sleep(0.5)
        self.learn(output)

    def background(self, block, until):
        log = self.directory / f"background-{len(self.running)}.log"
        with log.open("w") as stream:
            process = self.start(block.text, stdout=stream, stderr=subprocess.STDOUT)
        self.running.append(process)
        end = time.monotonic() + PATIENCE
        while self.bash(until)[0] != 0:
            if process.poll() is not None or time.monotonic() > end:
                raise Failed(f"{block.place}: not up by {until}\n{log.read_text()[-3000:]}")
            time.sleep(0.3)

    def learn(self, output):
        """Takes over what the reader would have read."""
        if token := re.search(r"^ *(muster_[A-Za-z0-9_-]{20,})$", output, re.MULTILINE):
            self.replacements.setdefault("muster_…", token[1])
        if serial := re.search(r'"serial":"([^"]+)"', output):
            self.replacements["F2LXK0AAPLJM"] = serial[1]

    def prepare(self, document):
        """Puts there what comes from elsewhere: from Apple, and out of a safe."""
        if document == "docs/operate/push-certificate.md":
            apple, later = self.place / "trial/apns/push.pem", self.directory / "later"
            (self.place / "MDM_ Example_Certificate.pem").write_bytes(apple.read_bytes())
            code, _, errors = self.bash(
                "openssl pkcs12 -export -in trial/apns/push.pem -passout env:PASSWORD -out push.p12"
            )
            assert code == 0, errors
            with (self.directory / "later.log").open("w") as log:
                other = subprocess.Popen(
                    [self.place / "target/release/muster", "simulate", "apns", "--directory", later, "--topic", OTHER_TOPIC,
                     "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"], stdout=log, stderr=log,
                )
            self.wait_for_file(later / "push.pem")
            other.kill()
            other.wait()
            (self.place / "MDM_ New_Certificate.pem").write_bytes((later / "push.pem").read_bytes())
        if document == "docs/operate/backup.md":
            key = self.directory / "var/lib/muster/server/data/master.key"
            (self.directory / "keys/master.key").write_bytes(key.read_bytes())

    @staticmethod
    def wait_for_file(path):
        end = time.monotonic() + PATIENCE
        while not (path.is_file() and path.stat().st_size):
            assert time.monotonic() < end, f"{path} does not appear"
            time.sleep(0.1)

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    marked = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        if blocks(path.relative_to(ROOT))
    }
    if marked != set(DOCUMENTS):
        sys.exit(f"the list of documents to run is not right: {sorted(marked ^ set(DOCUMENTS))}")
    with tempfile.TemporaryDirectory() as directory:
        reader = Reader(program, pathlib.Path(directory))
        try:
            for document in DOCUMENTS:
                reader.prepare(document)
                here = blocks(document)
                for block in here:
                    reader.run(block)
                print(f"   {document}: {len(here)} blocks", flush=True)
        except Failed as failed:
            sys.exit(str(failed))
        finally:
            reader.end()


if __name__ == "__main__":
    main()
