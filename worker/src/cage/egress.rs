//! Where a live job's tool may go: to the addresses and ports that the worker has judged. The kernel stops each call that names an
//! address and asks the worker, which copies the address out of the tool, judges the copy, and makes the call itself on a copy
//! of the tool's socket.
//!
//! Invariant: nothing that the tool could change after the judgement is used for the call, so there is no race to win; a call
//! that is not understood is refused. The tool never holds the descriptor by which it is asked for. Source: seccomp_unotify(2),
//! pidfd_getfd(2), process_vm_readv(2). The worker needs the right to trace the tool: the same user, or `CAP_SYS_PTRACE`.

mod moved;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use moved::{Again, Moved};
use nix::libc;
use tokio::runtime::Handle;

/// Flags by which the descriptor is handed over. No other message may have them afterwards.
pub(super) const HANDOVER: libc::c_int = libc::MSG_CONFIRM | libc::MSG_EOR | libc::MSG_MORE | libc::MSG_NOSIGNAL;
/// Flags of messages that are passed on.
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_MORE;
/// What is taken of one message. A stream's rest is sent again by the tool, a datagram is shorter.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Parts of one message.
const PARTS: usize = 64;
/// Tasks of a tool that are remembered.
const TASKS: usize = 1024;
/// Calls of one run that last at a time, each on a thread of its own. A tool has a few; one that interrupts its own calls could
/// have thousands, for those go on until their server answers.
const LASTING: usize = 64;
/// Addresses of one run that the log says were refused.
const SAID: usize = 12;

/// `_IOWR('!', 0, struct seccomp_notif)`, `_IOWR('!', 1, struct seccomp_notif_resp)` and `_IOW('!', 2, __u64)`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const ANSWER: libc::c_ulong = 0xc018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;

const _: () = assert!(size_of::<libc::seccomp_notif>() == 0x50 && size_of::<libc::seccomp_notif_resp>() == 0x18);

/// The addresses that a run may go to.
#[derive(Clone, Default)]
pub struct Reach {
    to: Vec<SocketAddr>,
    /// Names that the tool looks up itself: they may move while it runs.
    names: Option<Again>,
    /// Whether it is tried what happens to a tool that goes elsewhere.
    is_tried: bool,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("to", &self.to).field("may_move", &self.names.is_some()).finish()
    }
}

impl Reach {
    /// These addresses, as they were judged.
    #[must_use]
    pub fn to(addresses: impl IntoIterator<Item = SocketAddr>) -> Reach {
        Reach { to: addresses.into_iter().map(plain).collect(), ..Reach::default() }
    }

    /// The same for a trial, in which a tool is meant to go elsewhere: nobody is warned of it.
    pub(super) fn tried(self) -> Reach {
        Reach { is_tried: true, ..self }
    }

    /// Where the tool connects to another address of the same ports, names are looked up and judged `again`; the connection is
    /// made if the address is among the answer. Must be called inside the async runtime, on which they are looked up.
    #[must_use]
    pub fn and_where_names_move<L>(self, again: impl Fn() -> L + Send + Sync + 'static) -> Reach
    where
        L: Future<Output = Vec<SocketAddr>> + Send + 'static,
    {
        let runtime = Handle::current();
        Reach { names: Some(Arc::new(move || moved::found_on(&runtime, again()))), ..self }
    }

    /// The servers that this machine asks for names as well.
    #[must_use]
    pub fn and_names(mut self) -> Reach {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        self.to.extend(name_servers(&text).map(|address| SocketAddr::new(address, 53)));
        self
    }

    /// Ports of these addresses.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.to.iter().map(SocketAddr::port)
    }

    fn has(&self, address: SocketAddr) -> bool {
        self.to.contains(&plain(address))
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports().any(|known| known == port)
    }
}

/// An address as IPv4, where it is that in IPv6; without scope and flow.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What `resolv.conf` names; the library's own choice where it names nobody.
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    let named = |line: &str| line.trim().strip_prefix("nameserver")?.trim().split('%').next()?.parse::<IpAddr>().ok();
    let mut found: Vec<IpAddr> = text.lines().filter_map(named).collect();
    if found.is_empty() {
        found.push(Ipv4Addr::LOCALHOST.into());
    }
    found.into_iter()
}

/// What waits for its process.
#[derive(Debug)]
pub(super) struct Asking {
    program: Vec<libc::sock_filter>,
    handover: UnixStream,
}

impl Asking {
    /// Starts to listen for a process that may go there, and answers it as long as it lives. The thread ends with the last
    /// task that asks, or when no process comes to be.
    pub(super) fn prepare(reach: Reach) -> io::Result<Asking> {
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::Builder::new().name("egress".into()).spawn(move || {
            // No process came to be, or it died before it could ask.
            let Ok(listener) = received(&ours) else { return };
            drop(ours);
            let refused = Refused { is_meant: reach.is_tried, said: BTreeSet::new(), unsaid: 0 };
            let mut desk = Desk {
                listener: Arc::new(listener),
                reach,
                tasks: HashMap::new(),
                lasting: Arc::default(),
                refused: Arc::new(Mutex::new(refused)),
                moved: Arc::default(),
            };
            while desk.serve().is_ok() {}
        })?;
        Ok(Asking { program: program(), handover: theirs })
    }

    /// Has the kernel ask from now on, and hands over by what. System calls only. The calls' own filter comes after it, and
    /// takes away what is used here.
    pub(super) fn begin(&self) -> io::Result<()> {
        let length = u16::try_from(self.program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog { len: length, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which outlives the call.
        let listen = |flags: libc::c_ulong| unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
        };
        // From Linux 5.19 on no signal but a deadly one interrupts a call that the worker looks at.
        let patient = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let listener = match listen(patient) {
            -1 => listen(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
            listener => listener,
        };
        let listener = RawFd::try_from(listener).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: it was opened above and is used by nobody else.
        let listener = unsafe { OwnedFd::from_raw_fd(listener) };
        send(&self.handover, listener.as_raw_fd())
    }
}

/// Room for the control message of one descriptor, aligned as the kernel wants it.
type Control = [u64; 4];

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = std::ptr::from_mut(part);
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: it only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
    message
}

fn send(over: &UnixStream, fd: RawFd) -> io::Result<()> {
    let (mut byte, mut control) = ([1_u8], Control::default());
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let message = message(&mut part, &mut control);
    // SAFETY: the message has room for one control message with one descriptor, and outlives the call.
    let sent = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(head).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(over.as_raw_fd(), &raw const message, HANDOVER)
    };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn received(over: &UnixStream) -> io::Result<OwnedFd> {
    let (mut byte, mut control) = ([0_u8], Control::default());
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut message = message(&mut part, &mut control);
    // SAFETY: the message has room for what is received, and the kernel says how much of it that is.
    unsafe {
        if libc::recvmsg(over.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) != 1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        if head.is_null() || (*head).cmsg_level != libc::SOL_SOCKET || (*head).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(head).cast::<RawFd>().read_unaligned()))
    }
}

/// The filter: calls that name an address are asked about, all others go their way. Which architecture it is the calls' own
/// filter looks at.
pub(super) fn program() -> Vec<libc::sock_filter> {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
    let load = |at| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let when = |is, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k: is };
    let end = |how| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: how };
    let number = |call: libc::c_long| u32::try_from(call).expect("numbers of calls are small");
    // `struct seccomp_data`: the number, then the arguments from byte 16 on, their low half first.
    let argument = |number: u32| 16 + 8 * number;
    vec![
        load(0),
        when(number(libc::SYS_connect), 10, 0),
        when(number(libc::SYS_sendmsg), 2, 0),
        when(number(libc::SYS_sendto), 3, 0),
        end(libc::SECCOMP_RET_ALLOW),
        // A message: only the handover goes its way.
        load(argument(2)),
        when(HANDOVER.cast_unsigned(), 4, 5),
        // Bytes to an address: where there is none, they go to whom the socket is connected to.
        load(argument(4)),
        when(0, 0, 3),
        load(argument(4) + 4),
        when(0, 0, 1),
        end(libc::SECCOMP_RET_ALLOW),
        end(libc::SECCOMP_RET_USER_NOTIF),
    ]
}

/// Whoever answers the kernel for one tool.
struct Desk {
    listener: Arc<OwnedFd>,
    reach: Reach,
    /// By task, the process that it belongs to.
    tasks: HashMap<u32, Arc<Process>>,
    /// Held by every call that lasts.
    lasting: Arc<()>,
    refused: Arc<Mutex<Refused>>,
    moved: Arc<Moved>,
}

/// Addresses that were refused. Dropped, it says how much more there was than it has said.
#[derive(Default)]
struct Refused {
    is_meant: bool,
    said: BTreeSet<Option<SocketAddr>>,
    unsaid: u64,
}

impl Refused {
    /// Counts one. Answers whether it is to be said.
    fn note(&mut self, to: Option<SocketAddr>) -> bool {
        if self.is_meant {
            return false;
        }
        let is_said = self.said.len() < SAID && self.said.insert(to);
        self.unsaid += u64::from(!is_said);
        is_said
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        if self.unsaid > 0 {
            tracing::warn!(
                times = self.unsaid,
                "a tool was kept from going to where its job does not lead, again or elsewhere"
            );
        }
    }
}

/// A process of the tool.
struct Process {
    pid: libc::pid_t,
    fd: OwnedFd,
}

/// A call that is done or refused.
type Done = Result<i64, libc::c_int>;

/// What is left to do of a call that was judged.
enum Call {
    /// It is over.
    Done(Done),
    /// It may last: a socket that waits for its server.
    Connect(OwnedFd, Vec<u8>),
    /// The same to an address that a name may have moved to.
    ConnectIfMoved(OwnedFd, Vec<u8>, SocketAddr, Again),
    /// The same of one that waits for room.
    Send(OwnedFd, Parcel),
}

/// A message that was copied out of the tool.
struct Parcel {
    to: Vec<u8>,
    bytes: Vec<u8>,
    flags: libc::c_int,
}

fn last_errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn fd_of(answer: libc::c_long) -> Result<OwnedFd, libc::c_int> {
    let fd = RawFd::try_from(answer).ok().filter(|fd| *fd >= 0).ok_or_else(last_errno)?;
    // SAFETY: a call just opened it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Process {
    /// The process that a task belongs to.
    fn of(task: u32) -> Result<Process, libc::c_int> {
        let status = std::fs::read_to_string(format!("/proc/{task}/status")).map_err(|_| libc::ESRCH)?;
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        let pid: libc::pid_t = group.ok_or(libc::ESRCH)?;
        // SAFETY: it takes two numbers.
        let fd = fd_of(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        Ok(Process { pid, fd })
    }

    fn is_alive(&self) -> bool {
        let mut waits = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: it is one descriptor, and outlives the call, which does not wait.
        unsafe { libc::poll(&raw mut waits, 1, 0) == 0 }
    }

    /// A copy of one of its sockets.
    fn socket(&self, number: u64) -> Result<OwnedFd, libc::c_int> {
        // SAFETY: it takes three numbers.
        fd_of(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.fd.as_raw_fd(), number, 0) })
    }

    /// A copy of its memory.
    fn copy(&self, from: u64, length: usize) -> Result<Vec<u8>, libc::c_int> {
        let mut bytes = vec![0_u8; length];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let from = usize::try_from(from).map_err(|_| libc::EFAULT)?;
        let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(from), iov_len: length };
        // SAFETY: the kernel writes into `bytes`, which has this length, and reads nothing else of ours.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(read) {
            Ok(read) if read == length => Ok(bytes),
            Ok(_) => Err(libc::EFAULT),
            Err(_) => Err(last_errno()),
        }
    }

    /// The message that a header of its memory describes.
    fn parcel(&self, header: u64, flags: libc::c_int) -> Result<Parcel, libc::c_int> {
        let header = self.copy(header, size_of::<libc::msghdr>())?;
        // SAFETY: it has the length of a header, and every pattern of bits is one.
        let header: libc::msghdr = unsafe { std::ptr::read_unaligned(header.as_ptr().cast()) };
        if header.msg_controllen as usize > 0 {
            // Descriptors, or another sender than the socket's own.
            return Err(libc::EPERM);
        }
        let to = self.address(header.msg_name.addr() as u64, u64::from(header.msg_namelen))?;
        let count = header.msg_iovlen as usize;
        if count > PARTS {
            return Err(libc::EMSGSIZE);
        }
        let parts = self.copy(header.msg_iov.addr() as u64, count * size_of::<libc::iovec>())?;
        let mut bytes = Vec::new();
        for part in parts.chunks_exact(size_of::<libc::iovec>()) {
            // SAFETY: it has the length of a part, and every pattern of bits is one.
            let part: libc::iovec = unsafe { std::ptr::read_unaligned(part.as_ptr().cast()) };
            let length = part.iov_len.min(MESSAGE_BYTES - bytes.len());
            bytes.extend(self.copy(part.iov_base.addr() as u64, length)?);
        }
        Ok(Parcel { to, bytes, flags })
    }

    /// The address of a socket, as it stands in its memory; empty where it names none.
    fn address(&self, at: u64, length: u64) -> Result<Vec<u8>, libc::c_int> {
        if at == 0 {
            return Ok(Vec::new());
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= size_of::<libc::sockaddr_storage>());
        self.copy(at, length.ok_or(libc::EINVAL)?)
    }
}

impl Desk {
    /// Answers one call. An error: nobody asks any more.
    fn serve(&mut self) -> io::Result<()> {
        let mut waits = libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: it is one descriptor, and outlives the call.
        if unsafe { libc::poll(&raw mut waits, 1, -1) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        if waits.revents & libc::POLLIN == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // SAFETY: all zeros is what the kernel wants to find.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a question into it, whose size stands in the number of the call.
        if unsafe { libc::ioctl(self.listener.as_raw_fd(), RECEIVE, &raw mut asked) } < 0 {
            // Whoever asked was killed or interrupted meanwhile.
            return Ok(());
        }
        match self.judge(&asked).unwrap_or_else(|errno| Call::Done(Err(errno))) {
            Call::Done(done) => answer(&self.listener, asked.id, done),
            Call::Connect(socket, to) => self.later(asked.id, move || connect(&socket, &to)),
            Call::ConnectIfMoved(socket, to, address, again) => {
                let (moved, refused) = (self.moved.clone(), self.refused.clone());
                self.later(asked.id, move || {
                    if moved.has(address, &again, Instant::now()) {
                        return connect(&socket, &to);
                    }
                    Err(refuse(&refused, Some(address)))
                });
            }
            Call::Send(socket, parcel) => self.later(asked.id, move || put(&socket, &parcel, 0)),
        }
        Ok(())
    }

    /// Does what may last on a thread of its own, where there is room for one.
    fn later(&self, id: u64, work: impl FnOnce() -> Done + Send + 'static) {
        let (listener, place) = (self.listener.clone(), self.lasting.clone());
        // One is the desk's own, one the new call's.
        let has_room = Arc::strong_count(&place) <= LASTING + 1;
        let call = move || {
            answer(&listener, id, work());
            drop(place);
        };
        if !has_room || std::thread::Builder::new().name("egress-call".into()).spawn(call).is_err() {
            answer(&self.listener, id, Err(libc::EAGAIN));
        }
    }

    /// What is to be done of a call. Everything about it is copied before it is judged, and the copies are used.
    fn judge(&mut self, asked: &libc::seccomp_notif) -> Result<Call, libc::c_int> {
        let process = self.process(asked.pid)?;
        let [number, first, second, third, fourth, fifth] = asked.data.args;
        let flags = |word: u64| (word & u64::from(u32::MAX)) as libc::c_int;
        let parcel = match libc::c_long::from(asked.data.nr) {
            libc::SYS_connect => {
                let to = process.address(first, second)?;
                self.is_still_asked(asked)?;
                let socket = of_the_network(process.socket(number)?)?;
                // To nobody: it takes a connection back.
                if family(&to) == Some(libc::AF_UNSPEC) {
                    return Ok(Call::Connect(socket, to));
                }
                return match (named(&to).map(plain), &self.reach.names) {
                    (Some(address), Some(again)) if !self.reach.has(address) && self.reach.has_port(address.port()) => {
                        Ok(Call::ConnectIfMoved(socket, to, address, again.clone()))
                    }
                    _ => self.allow(&to).map(|()| Call::Connect(socket, to)),
                };
            }
            libc::SYS_sendto => {
                let length = usize::try_from(second).unwrap_or(usize::MAX).min(MESSAGE_BYTES);
                let to = process.address(fourth, fifth)?;
                Parcel { to, bytes: process.copy(first, length)?, flags: flags(third) }
            }
            libc::SYS_sendmsg => process.parcel(first, flags(second))?,
            _ => return Err(libc::ENOSYS),
        };
        self.is_still_asked(asked)?;
        let socket = of_the_network(process.socket(number)?)?;
        if !parcel.to.is_empty() {
            self.allow(&parcel.to)?;
        }
        match put(&socket, &parcel, libc::MSG_DONTWAIT) {
            Err(libc::EAGAIN) if is_patient(&socket, parcel.flags) => Ok(Call::Send(socket, parcel)),
            done => Ok(Call::Done(done)),
        }
    }

    fn process(&mut self, task: u32) -> Result<Arc<Process>, libc::c_int> {
        if let Some(process) = self.tasks.get(&task).filter(|process| process.is_alive()) {
            return Ok(process.clone());
        }
        if self.tasks.len() >= TASKS {
            self.tasks.clear();
        }
        let process = Arc::new(Process::of(task)?);
        self.tasks.insert(task, process.clone());
        Ok(process)
    }

    /// The task that asked is the one that was looked at, and waits for its answer.
    fn is_still_asked(&self, asked: &libc::seccomp_notif) -> Result<(), libc::c_int> {
        // SAFETY: the kernel reads a number.
        let valid = unsafe { libc::ioctl(self.listener.as_raw_fd(), IS_VALID, &raw const asked.id) };
        if valid == 0 { Ok(()) } else { Err(libc::ESRCH) }
    }

    fn allow(&self, to: &[u8]) -> Result<(), libc::c_int> {
        let to = named(to);
        if to.is_some_and(|address| self.reach.has(address)) {
            return Ok(());
        }
        Err(refuse(&self.refused, to))
    }
}

/// Notes an address that was refused. Answers what the tool is told.
fn refuse(refused: &Mutex<Refused>, to: Option<SocketAddr>) -> libc::c_int {
    if refused.lock().unwrap_or_else(PoisonError::into_inner).note(to) {
        tracing::warn!(?to, "a tool wants to go to where its job does not lead, and is kept from it");
    }
    libc::EACCES
}

fn family(address: &[u8]) -> Option<libc::c_int> {
    address.first_chunk().map(|family| u16::from_ne_bytes(*family).into())
}

/// The address of the network that these bytes are, by the kernel's `sockaddr_in` and `sockaddr_in6`.
fn named(address: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*address.get(2..)?.first_chunk()?);
    let ip: IpAddr = match family(address)? {
        libc::AF_INET if address.len() >= 16 => Ipv4Addr::from(*address[4..].first_chunk::<4>()?).into(),
        libc::AF_INET6 if address.len() >= 28 => Ipv6Addr::from(*address[8..].first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A socket of the network. On others, such as those to the kernel, the worker's rights would count.
fn of_the_network(socket: OwnedFd) -> Result<OwnedFd, libc::c_int> {
    match option(&socket, libc::SO_DOMAIN)? {
        libc::AF_INET | libc::AF_INET6 => Ok(socket),
        _ => Err(libc::EACCES),
    }
}

fn option(socket: &OwnedFd, name: libc::c_int) -> Result<libc::c_int, libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: there is room for a number, and its size is told.
    let told = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, &raw mut length)
    };
    if told == 0 { Ok(value) } else { Err(last_errno()) }
}

/// Whether a call on a socket waits until it is done.
fn is_patient(socket: &OwnedFd, flags: libc::c_int) -> bool {
    // SAFETY: it asks for flags.
    let of_socket = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) };
    (flags | of_socket) & libc::MSG_DONTWAIT == 0 && of_socket & libc::O_NONBLOCK == 0
}

fn connect(socket: &OwnedFd, to: &[u8]) -> Done {
    let length = to.len() as libc::socklen_t;
    // SAFETY: the address has this length, and outlives the call.
    let done = unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr().cast(), length) };
    if done == 0 { Ok(0) } else { Err(last_errno()) }
}

fn put(socket: &OwnedFd, parcel: &Parcel, more: libc::c_int) -> Done {
    let flags = parcel.flags & FLAGS | more | libc::MSG_NOSIGNAL;
    let to = if parcel.to.is_empty() { std::ptr::null() } else { parcel.to.as_ptr().cast() };
    // SAFETY: bytes and address have these lengths, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            parcel.bytes.as_ptr().cast(),
            parcel.bytes.len(),
            flags,
            to,
            parcel.to.len() as libc::socklen_t,
        )
    };
    if sent >= 0 { Ok(sent as i64) } else { Err(last_errno()) }
}

/// Answers the kernel, unless whoever asked is gone.
fn answer(listener: &OwnedFd, id: u64, done: Done) {
    let (val, error) = match done {
        Ok(val) => (val, 0),
        Err(errno) => (0, -errno),
    };
    let response = libc::seccomp_notif_resp { id, val, error, flags: 0 };
    // SAFETY: the kernel reads an answer, whose size stands in the number of the call.
    unsafe {
        libc::ioctl(listener.as_raw_fd(), ANSWER, &raw const response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_the_kernel_s_bytes_or_is_none() {
        let v4 = [&2_u16.to_ne_bytes()[..], &[0x1f, 0x90, 10, 1, 2, 3], &[0; 8]].concat();
        assert_eq!(named(&v4), Some("10.1.2.3:8080".parse().unwrap()));
        let mut v6 = vec![0_u8; 28];
        v6[..4].copy_from_slice(&[&10_u16.to_ne_bytes()[..], &[0, 80]].concat());
        v6[8..24].copy_from_slice(&"::ffff:10.1.2.3".parse::<Ipv6Addr>().unwrap().octets());
        let reach = Reach::to(["10.1.2.3:80".parse().unwrap()]);
        assert!(named(&v6).is_some_and(|address| reach.has(address)), "the same address in the other family");
        v6[23] = 4;
        assert!(!reach.has(named(&v6).unwrap()));
        // Cut short, of no family, of another.
        for none in [&v4[..15], &v4[..3], &v6[..27], &[], &[0; 16], &[1, 0, b'/', b'x']] {
            assert_eq!(named(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_address_that_is_refused_is_said_once_and_of_many_a_dozen() {
        let (mut refused, to) = (Refused::default(), |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        assert!(refused.note(to(1)) && !refused.note(to(1)) && refused.note(None));
        assert_eq!((2..100).filter(|port| refused.note(to(*port))).count(), SAID - 2);
        assert_eq!(refused.unsaid, 101 - SAID as u64);
        refused.unsaid = 0;
    }

    #[test]
    fn calls_that_last_have_a_bound_and_what_is_beyond_it_is_told_to_come_again() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let desk = Desk {
            listener: Arc::new(OwnedFd::from(theirs)),
            reach: Reach::default(),
            tasks: HashMap::new(),
            lasting: Arc::default(),
            refused: Arc::default(),
            moved: Arc::default(),
        };
        let (begun, begins) = std::sync::mpsc::channel();
        let hold = Arc::new(std::sync::Barrier::new(LASTING + 1));
        for id in 0..100 {
            let (begun, hold) = (begun.clone(), hold.clone());
            desk.later(id, move || {
                begun.send(()).unwrap();
                hold.wait();
                Ok(0)
            });
        }
        drop(begun);
        hold.wait();
        assert_eq!(begins.iter().count(), LASTING);
        drop(ours);
    }

    #[test]
    fn servers_of_names_are_those_that_the_system_asks() {
        let read = |text: &str| name_servers(text).map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(
            read("search a\nnameserver 10.0.0.2\n nameserver fe80::1%eth0\n#nameserver 1.1.1.1\n"),
            ["10.0.0.2", "fe80::1"]
        );
        assert_eq!(read("nameserver x\n"), ["127.0.0.1"]);
    }
}
