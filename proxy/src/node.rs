//! The node's own addresses as a pod can see them: its default gateways, from which the kubelet's probes
//! come on most networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads `/proc/net/route` and `/proc/net/ipv6_route`; a table that cannot be read holds no gateway.
pub fn gateways() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    v4(&read("/proc/net/route"))
        .map(IpAddr::V4)
        .chain(v6(&read("/proc/net/ipv6_route")).map(IpAddr::V6))
        .collect()
}

/// Columns: interface, destination, gateway, ... in little-endian hexadecimal.
fn v4(table: &str) -> impl Iterator<Item = Ipv4Addr> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (destination, gateway) = (columns.next()?, columns.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes()))
    })
}

/// Columns: destination, its length, source, its length, gateway, ... in hexadecimal.
fn v6(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let gateway = u128::from_str_radix(columns.get(4)?, 16).ok()?;
        (*columns.get(1)? == "00" && gateway != 0).then(|| Ipv6Addr::from(gateway))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_gateways_are_found_and_other_routes_are_not() {
        let table = "Iface\tDestination\tGateway \tFlags\n\
                     eth0\t00000000\t0100F40A\t0003\n\
                     eth0\t0000F40A\t00000000\t0001\n";
        assert_eq!(v4(table).collect::<Vec<_>>(), [Ipv4Addr::new(10, 244, 0, 1)]);
        let table = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n\
                     fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n";
        assert_eq!(v6(table).collect::<Vec<_>>(), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    }
}
