//! The maps of names: who asks, where the resolver listens, what addresses stand for.
//!
//! Taken from the kernel side once, by the resolver, which must not wait for whoever reloads a profile.

use agent_monitor_common::name::{
    Asker, AskerKey, NAME_BYTES, Named, NamedKey, RESOLVER_NETWORK, RESOLVER_PLACE, Resolver, Spoken,
    SpokenKey,
};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};

use super::control::{AskerKeyPod, AskerPod, NamedKeyPod, NamedPod, SpokenKeyPod, SpokenPod};
use super::loader::LoadError;

/// See the module.
pub struct NameMaps {
    askers: HashMap<MapData, AskerKeyPod, AskerPod>,
    named: Entries,
    spoken: SpokenEntries,
    resolver: Array<MapData, u64>,
}

/// What addresses stand for.
pub(super) type Entries = HashMap<MapData, NamedKeyPod, NamedPod>;

/// The names that TLS clients may say.
pub(super) type SpokenEntries = HashMap<MapData, SpokenKeyPod, SpokenPod>;

/// How the kernel knows a name; `None`: it is longer than any.
#[must_use]
pub fn spoken_key(profile: u32, generation: u32, name: &str) -> Option<SpokenKey> {
    let mut key = SpokenKey { profile, generation, length: name.len() as u32, ..SpokenKey::ZERO };
    key.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    (name.len() < NAME_BYTES).then_some(key)
}

impl NameMaps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, LoadError> {
        fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
            object.take_map(name).ok_or(LoadError::NoMap(name))
        }
        let askers = take(object, "ASKERS")?.try_into()?;
        Ok(NameMaps {
            askers,
            named: take(object, "NAMED")?.try_into()?,
            spoken: take(object, "SPOKEN")?.try_into()?,
            resolver: take(object, "RESOLVER")?.try_into()?,
        })
    }

    /// Who asks by this way.
    #[must_use]
    pub fn asker(&self, key: AskerKey) -> Option<Asker> {
        self.askers.get(&AskerKeyPod(key), 0).ok().map(|AskerPod(asker)| asker)
    }

    /// Where an earlier resolver listened; its sockets' peers know that port.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        Resolver::from_word(self.resolver.get(&RESOLVER_PLACE, 0).unwrap_or(0))
    }

    /// Tells the programs where the resolver listens.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_resolver(&mut self, resolver: Resolver) -> Result<(), MapError> {
        self.resolver.set(RESOLVER_PLACE, resolver.to_word(), 0)
    }

    /// Tells the programs in which network namespace that is.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_network(&mut self, cookie: u64) -> Result<(), MapError> {
        self.resolver.set(RESOLVER_NETWORK, cookie, 0)
    }

    /// What an address stands for now.
    #[must_use]
    pub fn named(&self, key: NamedKey) -> Option<Named> {
        self.named.get(&NamedKeyPod(key), 0).ok().map(|NamedPod(named)| named)
    }

    /// Says what an address stands for.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_named(&mut self, key: NamedKey, named: Named) -> Result<(), MapError> {
        self.named.insert(NamedKeyPod(key), NamedPod(named), 0)
    }

    /// The address stands for nothing any more.
    pub fn remove_named(&mut self, key: NamedKey) {
        // A missing entry is what we want.
        let _ = self.named.remove(&NamedKeyPod(key));
    }

    /// Says of which class a name is that TLS clients may say.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_spoken(&mut self, key: SpokenKey, spoken: Spoken) -> Result<(), MapError> {
        self.spoken.insert(SpokenKeyPod(key), SpokenPod(spoken), 0)
    }

    /// Takes out the names that are `gone`.
    pub fn sweep_spoken(&mut self, gone: impl Fn(&SpokenKey, &Spoken) -> bool) {
        let all = self.spoken.iter().flatten().map(|(SpokenKeyPod(key), SpokenPod(spoken))| (key, spoken));
        for (key, _) in all.filter(|(key, spoken)| gone(key, spoken)).collect::<Vec<_>>() {
            // A missing entry is what we want.
            let _ = self.spoken.remove(&SpokenKeyPod(key));
        }
    }

    /// Everything that stands for a name.
    #[must_use]
    pub fn all_named(&self) -> Vec<(NamedKey, Named)> {
        self.named.iter().flatten().map(|(NamedKeyPod(key), NamedPod(named))| (key, named)).collect()
    }
}
