//! Which addresses stand for which names: told to the kernel, kept here for reloads and events.
//!
//! Written by the resolver's thread when it has an answer, and by a reload; read by the event thread. What must stay
//! true: an address is in the kernel, for every generation that is or comes into force, before its answer is sent; the
//! kernel's entry says no more than the table here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_monitor_common::image::MAX_PROFILES;
use agent_monitor_common::name::{Asker, AskerKey, MAX_NAMED, NAMES_OF_ADDRESS, Named, NamedKey, Resolver};
use agent_monitor_common::request::Address;
use rustix::time::{ClockId, clock_gettime};

use super::filter;
use super::spoken::{self, Room};
use crate::kernel::NameMaps;
use crate::policy::{Membership, Mode, NameClasses, ResolvedProfile, compile};

/// Addresses kept. Half of what the kernel takes: at a reload each is there twice.
const MAX_ADDRESSES: usize = MAX_NAMED / 2;
/// Names kept of one address.
const MAX_NAMES: usize = 8;
/// How long an address is kept after its last answer has expired: for flows that go on, and for events.
const KEPT_NS: u64 = 24 * 3_600 * NS;
/// Nanoseconds of a second.
pub const NS: u64 = 1_000_000_000;

/// What a profile says of names, as one generation of its image numbers them.
#[derive(Debug)]
pub struct InForce {
    pub generation: u32,
    pub profile: Arc<ResolvedProfile>,
    pub names: NameClasses,
    /// By class of program.
    programs: Vec<Membership>,
    /// A rule asks for the name in a TLS client's hello.
    asks_hello: bool,
}

impl InForce {
    fn new(generation: u32, profile: Arc<ResolvedProfile>) -> Self {
        InForce {
            generation,
            names: NameClasses::of(&profile.network).unwrap_or_default(),
            programs: compile::memberships(&profile).unwrap_or_default(),
            asks_hello: profile.network.allow.iter().any(|rule| rule.sni),
            profile,
        }
    }

    /// The sets that a program of this class is in.
    #[must_use]
    pub fn program(&self, class: u32) -> &Membership {
        self.programs.get(class as usize).unwrap_or(&Membership::Unknown)
    }

    /// The class of a name that a rule grants to programs of `class`.
    #[must_use]
    pub fn granted(&self, class: u32, name: &str) -> Option<u16> {
        self.names.granted(&self.profile.network, self.program(class), name)
    }

    /// Whether what is not granted goes on all the same.
    #[must_use]
    pub fn only_watches(&self) -> bool {
        self.profile.mode != Mode::Enforce
    }
}

/// A slot: what is in force, and what is about to be.
#[derive(Clone, Debug, Default)]
struct Slot {
    now: Option<Arc<InForce>>,
    next: Option<Arc<InForce>>,
}

impl Slot {
    fn all(&self) -> impl Iterator<Item = &Arc<InForce>> {
        self.now.iter().chain(&self.next)
    }
}

/// A name that an address stands for.
#[derive(Clone, Debug)]
struct Standing {
    name: Arc<str>,
    /// `CLOCK_MONOTONIC` nanoseconds.
    until: u64,
}

/// What an address stands for. Nearly every one stands for one name, and there may be many.
#[derive(Clone, Debug)]
struct Stands {
    first: Standing,
    /// `None` is eight bytes, an empty slice would be sixteen.
    #[expect(clippy::box_collection, reason = "most have none, and a thin pointer is half as long")]
    more: Option<Box<Vec<Standing>>>,
}

impl Stands {
    fn of(first: Standing) -> Self {
        Stands { first, more: None }
    }

    fn iter(&self) -> impl Iterator<Item = &Standing> {
        std::iter::once(&self.first).chain(self.more.iter().flat_map(|more| more.iter()))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Standing> {
        std::iter::once(&mut self.first).chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
    }

    /// When the last of them expires.
    fn until(&self) -> u64 {
        self.iter().map(|standing| standing.until).max().unwrap_or(0)
    }

    /// The name that holds longest.
    fn newest(&self) -> &Standing {
        self.iter().fold(&self.first, |best, other| if other.until > best.until { other } else { best })
    }

    /// It stands for this name too, until then at least. Of too many the one that expires first is forgotten.
    fn add(&mut self, new: Standing) {
        if let Some(known) = self.iter_mut().find(|known| known.name == new.name) {
            known.until = known.until.max(new.until);
        } else if self.iter().count() < MAX_NAMES {
            self.more.get_or_insert_default().push(new);
        } else if let Some(oldest) = self.iter_mut().min_by_key(|standing| standing.until) {
            *oldest = new;
        }
    }
}

/// What addresses stand for, by slot: of a hundred thousand each byte of an entry counts.
struct Addresses(Vec<HashMap<[u32; 4], Stands>>);

impl Addresses {
    fn new() -> Self {
        Addresses(vec![HashMap::new(); MAX_PROFILES])
    }

    fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }

    /// Those of a slot.
    fn of(&self, slot: u32) -> Option<&HashMap<[u32; 4], Stands>> {
        self.0.get(slot as usize)
    }

    fn get(&self, slot: u32, address: &[u32; 4]) -> Option<&Stands> {
        self.of(slot)?.get(address)
    }

    fn all(&self) -> impl Iterator<Item = (u32, &[u32; 4], &Stands)> {
        (0..)
            .zip(&self.0)
            .flat_map(|(slot, held)| held.iter().map(move |(address, names)| (slot, address, names)))
    }
}

/// See the module.
pub struct Names {
    maps: Mutex<NameMaps>,
    slots: Mutex<Vec<Slot>>,
    addresses: Mutex<Addresses>,
    room: Mutex<Room>,
    pub counts: Counts,
}

/// What is counted here.
#[derive(Debug, Default)]
pub struct Counts {
    /// Addresses that the kernel or the table here had no room for.
    pub full: AtomicU64,
    /// Addresses that stood for more than [`NAMES_OF_ADDRESS`] kinds of names.
    pub crowded: AtomicU64,
}

/// There is no room for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// `CLOCK_MONOTONIC`, as the programs read it.
#[must_use]
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * NS + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The form in which the kernel knows an address.
fn key_of(address: IpAddr) -> [u32; 4] {
    match address.to_canonical() {
        IpAddr::V4(v4) => Address::v4(u32::from_ne_bytes(v4.octets())).0,
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()).0,
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Names").field("addresses", &locked(&self.addresses).len()).finish_non_exhaustive()
    }
}

impl Names {
    #[must_use]
    pub fn new(maps: NameMaps) -> Self {
        Names {
            maps: Mutex::new(maps),
            slots: Mutex::new(vec![Slot::default(); MAX_PROFILES]),
            addresses: Mutex::new(Addresses::new()),
            room: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Who asks by this way.
    pub fn asker(&self, from: IpAddr, port: u16, protocol: u8) -> Option<Asker> {
        locked(&self.maps).asker(AskerKey { address: key_of(from), port, protocol, pad: 0 })
    }

    /// Where an earlier resolver listened.
    pub fn resolver(&self) -> Resolver {
        locked(&self.maps).resolver()
    }

    /// Tells the kernel where the resolver listens.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_resolver(&self, resolver: Resolver) -> Result<(), aya::maps::MapError> {
        locked(&self.maps).set_resolver(resolver)
    }

    /// Tells the kernel in which network namespace that is.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_network(&self, cookie: u64) -> Result<(), aya::maps::MapError> {
        locked(&self.maps).set_network(cookie)
    }

    /// What is in force in a slot as this generation; `None`: not, or not any more.
    pub fn in_force(&self, slot: u32, generation: u32) -> Option<Arc<InForce>> {
        let slots = locked(&self.slots);
        let found = slots.get(slot as usize)?.all().find(|held| held.generation == generation);
        found.map(Arc::clone)
    }

    /// A generation is about to be put in force: what stands for a name stands for it there too.
    pub fn prepare(&self, slot: u32, generation: u32, profile: &Arc<ResolvedProfile>) {
        let next = Arc::new(InForce::new(generation, Arc::clone(profile)));
        {
            let mut slots = locked(&self.slots);
            let Some(held) = slots.get_mut(slot as usize) else { return };
            held.next = Some(Arc::clone(&next));
        }
        // Answers that come from here on are told for both; those before are in the table.
        let addresses = locked(&self.addresses);
        let mut maps = locked(&self.maps);
        for (&address, names) in addresses.of(slot).into_iter().flatten() {
            self.tell(&mut maps, slot, address, names, &next);
        }
    }

    /// The generation that was prepared is in force, or (`in_force` says another one) is not.
    pub fn settle(&self, slot: u32, in_force: Option<u32>) {
        {
            let mut slots = locked(&self.slots);
            let Some(held) = slots.get_mut(slot as usize) else { return };
            match held.next.take() {
                Some(next) if Some(next.generation) == in_force => held.now = Some(next),
                _ if held.now.as_ref().map(|now| now.generation) != in_force => held.now = None,
                _ => {}
            }
        }
        self.sweep_kernel(|key| key.profile == slot && Some(key.generation) != in_force);
    }

    /// Takes out of the kernel what is `gone`.
    fn sweep_kernel(&self, gone: impl Fn(&NamedKey) -> bool) {
        let mut maps = locked(&self.maps);
        for (key, _) in maps.all_named().into_iter().filter(|(key, _)| gone(key)) {
            maps.remove_named(key);
        }
        maps.sweep_spoken(|said, _| {
            gone(&NamedKey { profile: said.profile, generation: said.generation, ..NamedKey::ZERO })
        });
    }

    /// Takes out of the kernel what is expired and of no generation in force, or not in the table.
    fn sweep_expired(&self) {
        let slots = locked(&self.slots).clone();
        let addresses = locked(&self.addresses);
        let mut maps = locked(&self.maps);
        let now = monotonic();
        let current = |profile: u32, generation: u32| {
            let slot = slots.get(profile as usize);
            slot.is_some_and(|slot| slot.all().any(|held| held.generation == generation))
        };
        spoken::tidy(&mut maps, |key| current(key.profile, key.generation));
        for (key, named) in maps.all_named() {
            let current = current(key.profile, key.generation);
            let known = addresses.get(key.profile, &key.address).is_some();
            // What an earlier daemon told is in no table here.
            if !(current && known) && named.until.iter().all(|&until| until < now) {
                maps.remove_named(key);
            }
        }
    }

    /// An address stands for `name` until then, for everything that asks in this slot. The kernel knows it when this
    /// returns.
    ///
    /// # Errors
    /// [`NoRoom`]: it must not be told to the agent.
    pub fn grant(&self, slot: u32, name: &Arc<str>, address: IpAddr, until: u64) -> Result<(), NoRoom> {
        let address = key_of(address);
        let mut addresses = locked(&self.addresses);
        let mut maps = locked(&self.maps);
        if addresses.len() >= MAX_ADDRESSES && addresses.get(slot, &address).is_none() {
            let slots = locked(&self.slots).clone();
            make_room(&mut addresses, &mut maps, &slots);
            if addresses.len() >= MAX_ADDRESSES {
                self.counts.full.fetch_add(1, Ordering::Relaxed);
                return Err(NoRoom);
            }
        }
        let new = Standing { name: Arc::clone(name), until };
        let Some(held) = addresses.0.get_mut(slot as usize) else { return Err(NoRoom) };
        let names =
            held.entry(address).and_modify(|names| names.add(new.clone())).or_insert_with(|| Stands::of(new));
        // Read while the table is held: `prepare` sets what comes before it reads the table.
        let slots = locked(&self.slots).get(slot as usize).cloned().unwrap_or_default();
        let mut told = true;
        for held in slots.all() {
            told &= self.tell(&mut maps, slot, address, names, held);
        }
        if told { Ok(()) } else { Err(NoRoom) }
    }

    /// Writes what an address stands for, as `held` numbers names.
    fn tell(
        &self,
        maps: &mut NameMaps,
        slot: u32,
        address: [u32; 4],
        names: &Stands,
        held: &InForce,
    ) -> bool {
        let key = NamedKey { profile: slot, generation: held.generation, address };
        let mut cells: Vec<(u64, u16)> = Vec::new();
        // A reload may deny what an older profile's answer could name.
        let plain = IpAddr::from(Address(address).bytes());
        let denied = filter::denied_inside(&held.profile.network, &Membership::Unknown, plain);
        for standing in names.iter().filter(|_| !denied) {
            let Some(class) = held.names.class_of(&standing.name) else { continue };
            if held.asks_hello
                && !locked(&self.room).tell(maps, key.profile, held, &standing.name, class, standing.until)
            {
                self.counts.full.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            match cells.iter_mut().find(|(_, known)| *known == class) {
                Some(cell) => cell.0 = cell.0.max(standing.until),
                None => cells.push((standing.until, class)),
            }
        }
        if cells.is_empty() {
            maps.remove_named(key);
            return true;
        }
        cells.sort_unstable_by(|a, b| b.cmp(a));
        if cells.len() > NAMES_OF_ADDRESS {
            self.counts.crowded.fetch_add(1, Ordering::Relaxed);
        }
        let mut named = Named::ZERO;
        for (i, (until, class)) in cells.into_iter().take(NAMES_OF_ADDRESS).enumerate() {
            named.until[i] = until;
            named.class[i] = class;
        }
        if maps.set_named(key, named).is_err() {
            self.counts.full.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The name that an address stood for last, where agents of this slot asked for one.
    pub fn host_of(&self, slot: u32, address: IpAddr) -> Option<Arc<str>> {
        let addresses = locked(&self.addresses);
        let names = addresses.get(slot, &key_of(address))?;
        Some(Arc::clone(&names.newest().name))
    }

    /// The same, while an answer holds; with the seconds that it still does.
    pub fn live_host_of(&self, slot: u32, address: IpAddr) -> Option<(Arc<str>, u32)> {
        let now = monotonic();
        let addresses = locked(&self.addresses);
        let names = addresses.get(slot, &key_of(address))?;
        let newest = names.newest();
        let left = newest.until.checked_sub(now)? / NS;
        Some((Arc::clone(&newest.name), u32::try_from(left).unwrap_or(u32::MAX)))
    }

    /// How many addresses stand for a name now.
    pub fn live(&self) -> usize {
        let now = monotonic();
        let addresses = locked(&self.addresses);
        addresses.all().filter(|(.., names)| names.until() > now).count()
    }

    /// How many addresses are kept: those, and the ones that stood for a name within a day.
    pub fn kept(&self) -> usize {
        locked(&self.addresses).len()
    }

    /// Forgets what has long expired.
    pub fn tidy(&self) {
        let horizon = monotonic().saturating_sub(KEPT_NS);
        for held in &mut locked(&self.addresses).0 {
            held.retain(|_, names| names.until() > horizon);
        }
        self.sweep_expired();
    }
}

/// Takes out expired addresses, the oldest tenth of all.
fn make_room(addresses: &mut Addresses, maps: &mut NameMaps, slots: &[Slot]) {
    let now = monotonic();
    let mut expired: Vec<(u64, u32, [u32; 4])> = addresses
        .all()
        .map(|(slot, address, names)| (names.until(), slot, *address))
        .filter(|(until, ..)| *until < now)
        .collect();
    let leaving = (MAX_ADDRESSES / 10).min(expired.len());
    if leaving == 0 {
        return;
    }
    expired.select_nth_unstable(leaving - 1);
    for (_, slot, address) in expired.into_iter().take(leaving) {
        if let Some(held) = addresses.0.get_mut(slot as usize) {
            held.remove(&address);
        }
        for held in slots.get(slot as usize).into_iter().flat_map(Slot::all) {
            maps.remove_named(NamedKey { profile: slot, generation: held.generation, address });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &str, until: u64) -> Standing {
        Standing { name: name.into(), until }
    }

    #[test]
    fn an_address_stands_for_several_names_and_keeps_those_that_hold_longest() {
        let mut stands = Stands::of(standing("n0", 10));
        stands.add(standing("n0", 5));
        assert_eq!((stands.iter().count(), stands.until()), (1, 10));
        for n in 1..3 * MAX_NAMES as u64 {
            stands.add(standing(&format!("n{n}"), 10 + n));
            assert_eq!(&*stands.newest().name, format!("n{n}"));
        }
        assert_eq!(stands.iter().count(), MAX_NAMES);
        let least = stands.iter().map(|standing| standing.until).min();
        assert_eq!(least, Some(10 + 2 * MAX_NAMES as u64));
        stands.add(standing(&format!("n{}", 2 * MAX_NAMES), 1_000));
        assert_eq!((stands.iter().count(), stands.until()), (MAX_NAMES, 1_000));
    }

    #[test]
    fn an_address_has_one_form() {
        let key = |text: &str| key_of(text.parse().unwrap());
        assert_eq!(key("198.51.100.7"), key("::ffff:198.51.100.7"));
        assert_ne!(key("198.51.100.7"), key("::198.51.100.7"));
    }
}
