//! The client's address: which one counts, whether it may come in, and how often.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use axum::http::HeaderMap;
use governor::{Quota, RateLimiter, clock::Clock as _, clock::QuantaClock, state::keyed::HashMapStateStore};
use ipnet::IpNet;

use crate::{
    http::{error::Error, router::Class},
    rate,
};

/// Addresses that one route class remembers between two sweeps. Past it all are refused until the next: the memory
/// of a node under attack is worth more than its attackers' requests.
const ADDRESSES_MAX: usize = 100_000;

type Limiter = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, QuantaClock>;

/// The node's rules for addresses.
pub(crate) struct Addresses {
    permitted: Vec<IpNet>,
    trusted_proxies: Vec<IpNet>,
    values: Option<AddressLimit>,
    cache: Option<AddressLimit>,
    system: Option<AddressLimit>,
}

/// Requests per second and address; 0 is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AddressRates {
    /// On the Value Store.
    pub(crate) values: u32,
    /// On the Cache.
    pub(crate) cache: u32,
    /// On everything else.
    pub(crate) system: u32,
}

struct AddressLimit {
    limiter: Limiter,
    clock: QuantaClock,
    per_second: NonZeroU32,
}

impl Addresses {
    /// Rules as the configuration gives them; no permitted networks means that all are.
    pub(crate) fn new(permitted: Vec<IpNet>, trusted_proxies: Vec<IpNet>, rates: AddressRates) -> Self {
        Self {
            permitted,
            trusted_proxies,
            values: AddressLimit::new(rates.values),
            cache: AddressLimit::new(rates.cache),
            system: AddressLimit::new(rates.system),
        }
    }

    /// The address that the request comes from: the peer's own, or, when that is a trusted proxy, the last one in
    /// `X-Forwarded-For` that is not.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if self.trusted_proxies.is_empty() {
            return client;
        }
        let mut lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
        while contains(&self.trusted_proxies, client) {
            let Some(line) = lines.pop() else { break };
            let (rest, last) = line.rsplit_once(',').map_or((None, line), |(rest, last)| (Some(rest), last));
            lines.extend(rest);
            match last.trim().parse::<IpAddr>() {
                Ok(address) => client = address.to_canonical(),
                Err(_) => break,
            }
        }
        client
    }

    /// Lets the address in.
    ///
    /// # Errors
    /// 403 when it is not permitted.
    pub(crate) fn admit(&self, client: IpAddr) -> Result<(), Error> {
        if self.permitted.is_empty() || contains(&self.permitted, client) {
            Ok(())
        } else {
            Err(Error::AddressForbidden)
        }
    }

    /// Counts a request of the address.
    ///
    /// # Errors
    /// 429 past its rate.
    pub(crate) fn take(&self, client: IpAddr, class: Class) -> Result<(), Error> {
        let limit = match class {
            Class::Values => &self.values,
            Class::Cache => &self.cache,
            Class::System => &self.system,
        };
        limit.as_ref().map_or(Ok(()), |limit| limit.take(client))
    }
}

impl Addresses {
    /// Forgets the addresses that have their whole burst again. Called every second or so.
    pub(crate) fn sweep(&self) {
        for limit in [&self.values, &self.cache, &self.system].into_iter().flatten() {
            limit.limiter.retain_recent();
        }
    }
}

impl AddressLimit {
    fn new(per_second: u32) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        let clock = QuantaClock::default();
        let limiter = RateLimiter::new(Quota::per_second(per_second), HashMapStateStore::default(), clock.clone());
        Some(Self { limiter, clock, per_second })
    }

    fn take(&self, client: IpAddr) -> Result<(), Error> {
        if self.limiter.len() >= ADDRESSES_MAX {
            return Err(self.limited(Duration::ZERO));
        }
        self.limiter.check_key(&network(client)).map_err(|until| self.limited(until.wait_time_from(self.clock.now())))
    }

    fn limited(&self, wait: Duration) -> Error {
        let retry_after_s = wait.as_millis().div_ceil(1_000).max(1);
        Error::AddressRateLimited(rate::Limited {
            per_second: self.per_second.get().into(),
            retry_after_s: u64::try_from(retry_after_s).unwrap_or(u64::MAX),
        })
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// What counts as one client: an IPv4 address, or the /64 network that an IPv6 subscriber is given whole.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn addresses(permitted: &[&str], trusted: &[&str], rates: AddressRates) -> Addresses {
        let parse = |networks: &[&str]| networks.iter().map(|network| network.parse().unwrap()).collect();
        Addresses::new(parse(permitted), parse(trusted), rates)
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies_and_from_the_right() {
        let trusting = ["10.0.0.0/8", "::1/128"];
        for (trusted, peer, forwarded, expected) in [
            (&[][..], "10.0.0.1", vec!["1.2.3.4"], "10.0.0.1"),
            (&trusting[..], "9.9.9.9", vec!["1.2.3.4"], "9.9.9.9"),
            (&trusting[..], "10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
            (&trusting[..], "::ffff:10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
            (&trusting[..], "10.0.0.1", vec!["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            (&trusting[..], "10.0.0.1", vec!["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
            (&trusting[..], "10.0.0.1", vec!["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
            (&trusting[..], "10.0.0.1", vec![], "10.0.0.1"),
            (&trusting[..], "10.0.0.1", vec!["10.0.0.3"], "10.0.0.3"),
        ] {
            let mut headers = HeaderMap::new();
            for value in &forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
            }
            let found = addresses(&[], trusted, AddressRates::default()).client(peer.parse().unwrap(), &headers);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn only_permitted_addresses_come_in() {
        let all = addresses(&[], &[], AddressRates::default());
        assert!(all.admit("1.2.3.4".parse().unwrap()).is_ok());
        let some = addresses(&["127.0.0.0/8", "fd00::/8"], &[], AddressRates::default());
        assert!(some.admit("127.0.0.1".parse().unwrap()).is_ok());
        assert!(some.admit("fd00::1".parse().unwrap()).is_ok());
        assert!(matches!(some.admit("1.2.3.4".parse().unwrap()), Err(Error::AddressForbidden)));
    }

    #[test]
    fn each_route_class_has_its_own_limit() {
        let addresses = addresses(&[], &[], AddressRates { values: 2, ..AddressRates::default() });
        let client = "2001:db8::1".parse().unwrap();
        let neighbour = "2001:db8::2".parse().unwrap();
        assert!(addresses.take(client, Class::Values).is_ok());
        assert!(addresses.take(neighbour, Class::Values).is_ok());
        match addresses.take(client, Class::Values) {
            Err(Error::AddressRateLimited(limited)) => {
                assert_eq!(limited, rate::Limited { per_second: 2, retry_after_s: 1 });
            }
            other => panic!("{other:?}"),
        }
        assert!(addresses.take(client, Class::Cache).is_ok());
        assert!(addresses.take("1.2.3.4".parse().unwrap(), Class::Values).is_ok());
    }
}
