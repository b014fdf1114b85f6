//! Leases: one key per partition that expires.

use pelton_engine::log::Response;

use super::{Adapter, SimLog};

/// One key of the lease bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    /// Instance number of the holder; 0 when deleted.
    holder: u64,
    /// Revision of the last write.
    newest: u64,
    expires: u64,
}

impl SimLog {
    pub(super) fn acquire(&mut self, adapter: &mut Adapter, now: u64) -> Response {
        let lease = self.leases[adapter.partition as usize];
        let free = lease.holder == 0 || now >= lease.expires;
        if !free && lease.holder == adapter.instance {
            let held = adapter.lease.map_or(lease.newest, |(held, _)| held);
            adapter.lease = Some((held, lease.newest));
            return Response::LeaseHeld { revision: held };
        }
        if !free && !self.settings.broken_lease {
            return Response::LeaseTaken { holder: format!("instance {}", lease.holder) };
        }
        let revision = self.write_lease(adapter, now);
        adapter.lease = Some((revision, revision));
        Response::LeaseHeld { revision }
    }

    /// The identity of a lease is the revision of its acquisition; renewals keep it. One that ran out, and that nobody else
    /// has taken since, is written again: only another holder ends it.
    pub(super) fn renew(&mut self, adapter: &mut Adapter, revision: u64, now: u64) -> Response {
        let Some((held, newest)) = adapter.lease.filter(|(held, _)| *held == revision) else {
            return Response::LeaseTaken { holder: format!("somebody unknown, for revision {revision} is gone") };
        };
        let lease = self.leases[adapter.partition as usize];
        let mine = lease.holder == adapter.instance && lease.newest >= newest;
        let expired = lease.holder == 0 || now >= lease.expires;
        let is_given = if expired { !self.settings.mutants.lease_is_final } else { mine };
        if !is_given && !self.settings.broken_lease {
            adapter.lease = None;
            return Response::LeaseTaken { holder: format!("instance {}", lease.holder) };
        }
        let newest = self.write_lease(adapter, now);
        adapter.lease = Some((held, newest));
        Response::LeaseHeld { revision: held }
    }

    pub(super) fn release(&mut self, adapter: &mut Adapter, revision: u64, now: u64) -> Response {
        if adapter.lease.take_if(|(held, _)| *held == revision).is_some() {
            let lease = &mut self.leases[adapter.partition as usize];
            if lease.holder == adapter.instance && now < lease.expires {
                lease.holder = 0;
            }
        }
        Response::LeaseReleased
    }

    /// Every lease ends now.
    pub fn expire_leases(&mut self) {
        self.leases.iter_mut().for_each(|lease| lease.holder = 0);
    }

    fn write_lease(&mut self, adapter: &Adapter, now: u64) -> u64 {
        self.revision += 1;
        let expires = now + self.settings.lease_ttl;
        self.leases[adapter.partition as usize] = Lease { holder: adapter.instance, newest: self.revision, expires };
        self.revision
    }
}
