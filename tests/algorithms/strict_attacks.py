"""Tries what --sandbox strict must refuse, inside of it only. Answers what came of each attempt.

The first thing it tries is to read a file that no sandbox shows. If it can, or has no filter of system calls,
it is not confined, and does nothing else.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket

#: MPTCP, SCTP and UDP-Lite, for each of which the kernel loads a module.
PROTOCOLS = ((socket.AF_INET, 1, 262), (socket.AF_INET6, 1, 132), (socket.AF_INET, 2, 136))

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def attempt(act, *args):
    """Return "done", or the name of the errno."""
    try:
        result = act(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done" if result is None else result


def call(number, *args):
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_long(one) for one in args)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def append(path):
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def is_confined(secret):
    with open("/proc/self/status") as file:
        has_filter = "Seccomp:\t2" in file.read()
    return has_filter and attempt(read, secret) in ("ENOENT", "EACCES")


def files(given):
    secret, code = given["secret"], os.path.abspath(__file__)
    link = os.path.join(os.environ["TMPDIR"], "link")
    os.symlink(secret, link)
    own = os.path.join(os.environ["TMPDIR"], "own")
    return {
        "read a file elsewhere": attempt(read, secret),
        "read it by a link": attempt(read, link),
        "read it by /proc/1/root": attempt(read, "/proc/1/root" + secret),
        "read it by the root of its parent": attempt(read, f"/proc/{os.getppid()}/root{secret}"),
        "list a folder elsewhere": attempt(lambda: os.listdir(os.path.dirname(secret)) and None),
        "see a file elsewhere": attempt(lambda: os.stat(secret) and None),
        "write to a file elsewhere": attempt(append, secret),
        "write to its own code": attempt(append, code),
        "make a file beside its code": attempt(lambda: os.mknod(code + ".new")),
        "rename its code": attempt(os.rename, code, code + ".old"),
        "link its code elsewhere": attempt(os.link, code, own),
        "make a program that others run as its user": attempt(os.chmod, own_program(), 0o4755),
        "make one by its descriptor": attempt(os.chmod, os.open(own_program(), os.O_RDONLY), 0o4755),
        "make one that is new": attempt(lambda: os.open(own + "new", os.O_CREAT | os.O_WRONLY, 0o4755) and None),
        "make one that is a node": attempt(os.mknod, own + "node", 0o104755),
        "lock a file that it can read": attempt(lock, code),
        "make a program for its group in its metrics": attempt(make_for_group),
        "lock its metrics folder": attempt(lock_its_metrics),
        "make a device": attempt(os.mknod, own + "device", 0o600 | 0o020000, os.makedev(1, 1)),
        "read /etc/shadow": attempt(read, "/etc/shadow"),
        "read the record of a task": attempt(read, given["state"] + "/tasks/t1/task.json"),
        "write to the record of a task": attempt(append, given["state"] + "/tasks/t1/task.json"),
        "read where the kernel has its memory": attempt(read, "/proc/vmallocinfo"),
        "write a setting of the kernel": attempt(append, "/proc/sys/kernel/core_pattern"),
        "write to /proc/sysrq-trigger": attempt(append, "/proc/sysrq-trigger"),
        "write to a cgroup": attempt(append, "/sys/fs/cgroup/cgroup.procs"),
    }


def lock(path):
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_for_group():
    path = os.path.join(os.environ["ALGO_METRICS_DIR"], "for-group")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    os.chmod(path, 0o2755)
    return None if os.stat(path).st_mode & 0o2000 else "no bit"


def lock_its_metrics():
    folder = os.path.join(os.environ["ALGO_METRICS_DIR"], "locked")
    os.makedirs(os.path.join(folder, "deep"))
    os.chmod(folder, 0)
    os.chmod(os.environ["ALGO_METRICS_DIR"], 0)


def own_program():
    path = os.path.join(os.environ["TMPDIR"], "program")
    with open(path, "w"):
        return path


def processes(given):
    runner = given["runner"]
    kills = {"kill the runner": attempt(os.kill, runner, signal.SIGKILL)} if given["holds signals"] else {}
    return {
        **kills,
        "ask for the runner": attempt(os.kill, runner, 0),
        "read the environment of the runner": attempt(read, f"/proc/{runner}/environ"),
        "lower a limit of the runner": attempt(prlimit, runner),
        "change the priority of the runner": attempt(os.setpriority, os.PRIO_PROCESS, runner, 19),
        "change the priority of the user": attempt(os.setpriority, os.PRIO_USER, 0, 19),
        "move the runner to a processor": attempt(os.sched_setaffinity, runner, {0}),
        "make the runner the first victim": attempt(append, f"/proc/{runner}/oom_score_adj"),
        "write to memory of the runner": attempt(append, f"/proc/{runner}/mem"),
        "write to memory of process 1": attempt(append, "/proc/1/mem"),
        "ask by a descriptor for the other end of its channel": attempt(ask_the_other_end),
        "trace the runner": attempt(call, given["calls"]["ptrace"], 16, runner, 0, 0),
        "read memory of the runner": attempt(call, given["calls"]["process_vm_readv"], runner, 0, 0, 0, 0, 0),
    }


def ask_the_other_end():
    """Signal who holds the other end of a socket that it was given, by a descriptor of the process."""
    for name in os.listdir("/proc/self/fd"):
        try:
            fd = os.dup(int(name))
        except OSError:
            continue
        try:
            with socket.socket(fileno=fd) as one:
                number = one.getsockopt(socket.SOL_SOCKET, 77)  # SO_PEERPIDFD
        except OSError:
            continue
        signal.pidfd_send_signal(number, 0)
        return
    raise ProcessLookupError(errno.ESRCH, "no such descriptor")


def prlimit(pid):
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))


def calls(given):
    found = {}
    for name, number in given["calls"].items():
        found[name] = attempt(call, number, 0, 0, 0, 0, 0, 0)
    found["a call that does not exist"] = attempt(call, 5000)
    found["clone into a namespace"] = attempt(call, given["clone"], 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    # The filter comes before the look at the descriptor.
    # Whoever opens the file would wait for 45 s, again and again.
    with open(os.path.abspath(__file__)) as file:
        found["take a lease on its code"] = attempt(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    found["push a character into a terminal"] = attempt(call, given["ioctl"], -1, 0x5412, 0)
    if os.uname().machine == "x86_64":
        found["a call of x32"] = attempt(call, 0x40000000 | 39)
        found["a call of i386"] = call_of_i386()
    return found


def call_of_i386():
    """Return the name of the signal that ends a process which makes a call of another architecture."""
    import mmap

    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid
    pid = os.fork()
    if pid == 0:
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "done"


def network(given):
    def connect(kind, address):
        with socket.socket(kind, socket.SOCK_STREAM) as one:
            one.settimeout(2)
            one.connect(address)

    def send(address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"text", address)

    def make(*kind):
        socket.socket(*kind).close()

    return {
        "connect to the machine": attempt(connect, socket.AF_INET, ("127.0.0.1", given["port"])),
        "connect to the internet": attempt(connect, socket.AF_INET, ("192.0.2.1", 80)),
        "send to the internet": attempt(send, ("192.0.2.1", 53)),
        "connect to an abstract socket": attempt(connect, socket.AF_UNIX, "\0" + given["abstract"]),
        "connect to a socket with a path": attempt(connect, socket.AF_UNIX, given["socket"]),
        "make a raw socket": attempt(make, socket.AF_INET, socket.SOCK_RAW, 1),
        "make a packet socket": attempt(make, 17, socket.SOCK_RAW, 0),
        "make a vsock": attempt(make, 40, socket.SOCK_STREAM),
        "make a socket for audit": attempt(make, socket.AF_NETLINK, socket.SOCK_RAW, 9),
        **{f"make a socket of protocol {one}": attempt(make, *kind, one) for *kind, one in PROTOCOLS},
        "look up a name": attempt(lambda: look_up("example.org")),
    }


def look_up(name):
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror:
        return "not found"
    return None


def leftovers(given):
    """Leave what it can; the next process of the algorithm looks for it."""
    found = sorted(os.listdir(os.environ["TMPDIR"])) + sorted(os.listdir("/dev/shm"))
    for folder in (os.environ["TMPDIR"], "/dev/shm"):
        with open(os.path.join(folder, "left-by-the-task-before"), "w") as file:
            file.write("text")
    locked = os.path.join(os.environ["TMPDIR"], "left-locked", "folder")
    os.makedirs(locked)
    os.chmod(os.path.dirname(locked), 0)
    # Deeper than a function may call itself, and than a path may be long.
    there = os.getcwd()
    os.chdir(os.environ["TMPDIR"])
    for _ in range(1500):
        os.mkdir("left-deep")
        os.chdir("left-deep")
    os.chdir(there)
    return [name for name in found if name.startswith("left")]


kept = {}


def keep(given):
    """Keep open what the next task of this process may use."""
    folder = os.path.join(os.environ["ALGO_METRICS_DIR"], "below")
    os.mkdir(folder)
    kept["file"] = os.open(os.path.join(folder, "kept"), os.O_WRONLY | os.O_CREAT)
    kept["folder"] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for name in os.listdir("/proc/self/fd"):
        path = os.path.realpath(f"/proc/self/fd/{name}")
        if path.endswith(".output.json.part"):  # of its result, which is written when it returns
            kept["result"] = os.open(path, os.O_RDONLY)
    return {"kept": "done"}


def use_what_was_kept(given):
    def open_above(path):
        os.close(os.open(path, os.O_RDONLY, dir_fd=kept["folder"]))

    found = {"write to the metrics of the task before": attempt(os.truncate, kept["file"], 1)}
    # This may be "done": whether the record was changed, the test sees.
    attempt(lambda: os.truncate(f"/proc/self/fd/{kept['result']}", 0))
    for steps in range(1, 10):
        above = "/".join([".."] * steps)
        found[f"open the folder {steps} above them"] = attempt(open_above, above)
        found[f"open a record {steps} above them"] = attempt(open_above, above + "/tasks/t1/task.json")
    return found


def start(args, api):
    what, given = args["input"]
    if not is_confined(given["secret"]):
        raise RuntimeError("not confined: nothing was tried")
    if what == "end":
        os._exit(3)
    return {each.__name__: each for each in KINDS}[what](given)


KINDS = (files, processes, calls, network, leftovers, keep, use_what_was_kept)
