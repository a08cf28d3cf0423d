package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a peer may be unreachable before its connections break: a host without power says nothing.
const silence = 6 * time.Second

// noticeLoss makes a connection of any kind break when its peer is not there any more, however long an answer may take.
// Keep-alives find a lost peer of an idle connection. They are not sent while data is on its way, and the kernel tries
// to deliver that for a quarter of an hour; TCP_USER_TIMEOUT would end this, but also a connection whose peer lives and
// merely does not read on, as an exec session does whose output is paused. So the acknowledgements are watched.
func noticeLoss(conn net.Conn, silence time.Duration) error {
	tcp := tcpOf(conn)
	if tcp == nil {
		return nil
	}
	every := silence / 6
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: every, Interval: every, Count: 5})
	raw, rawErr := tcp.SyscallConn()
	if err = errors.Join(err, rawErr); err != nil {
		return fmt.Errorf("watch a connection: %w", err)
	}
	go func() {
		for {
			time.Sleep(every)
			var info *unix.TCPInfo
			var infoErr error
			err := raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
			if err != nil || infoErr != nil {
				return // it is closed
			}
			if unanswered(info, silence) {
				_ = tcp.SetDeadline(time.Unix(1, 0)) // who waits for it is told that it timed out
				return
			}
		}
	}()
	return nil
}

// unanswered reports whether data is sent again and again and nothing comes back. A peer that lives but has no room
// is sent no data, only asked for room.
func unanswered(i *unix.TCPInfo, silence time.Duration) bool {
	return i.Unacked > 0 && i.Retransmits > 0 && time.Duration(i.Last_ack_recv)*time.Millisecond >= silence
}

// noticeSilence makes the kernel itself give a migration's stream up, whichever way it is lost.
func noticeSilence(conn net.Conn) error {
	tcp := tcpOf(conn)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("set up the migration stream: %w", err)
	}
	ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence/time.Millisecond))
	})
	if err = errors.Join(os.NewSyscallError("setsockopt", err), ctlErr); err != nil {
		return fmt.Errorf("set up the migration stream: %w", err)
	}
	return nil
}

// tcpOf returns what a connection is carried by, nil when that is not TCP.
func tcpOf(conn net.Conn) *net.TCPConn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
