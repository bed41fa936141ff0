//! What slows a processor down to save energy.

#[cfg(target_os = "linux")]
use std::path::Path;

/// How the machine saves energy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// whether it runs from its battery; `None` where the system does not tell
    pub on_battery: Option<bool>,
    /// what keeps the processor's clock low, in words that name the setting
    pub slowed_by: Option<String>,
}

impl Power {
    /// Looks.
    pub fn look() -> Power {
        #[cfg(target_os = "linux")]
        return linux(Path::new("/"));
        #[cfg(not(target_os = "linux"))]
        return Power::default();
    }
}

#[cfg(target_os = "linux")]
fn linux(root: &Path) -> Power {
    use super::text;
    let supplies = std::fs::read_dir(root.join("sys/class/power_supply")).into_iter().flatten().flatten();
    // Batteries of mice and pens count as supplies too; only those of the machine have no scope or that of the system.
    let of_machine = |p: &Path| text(&p.join("scope")).is_none_or(|s| s == "System");
    let batteries: Vec<String> = supplies
        .map(|e| e.path())
        .filter(|p| text(&p.join("type")).as_deref() == Some("Battery") && of_machine(p))
        .filter_map(|p| text(&p.join("status")))
        .collect();
    let on_battery = (!batteries.is_empty()).then(|| batteries.iter().any(|s| s == "Discharging"));

    let cpu = root.join("sys/devices/system/cpu");
    let first = cpu.join("cpu0/cpufreq");
    let said = |file: &str, word: &str| text(&first.join(file)).as_deref() == Some(word);
    // With these drivers "powersave" is the usual governor, and the preference says what is meant.
    let by_itself = ["intel_pstate", "amd-pstate-epp", "amd_pstate_epp"];
    let by_itself = text(&first.join("scaling_driver")).is_some_and(|d| by_itself.contains(&d.as_str()));
    let slowed_by = if said("scaling_governor", "powersave") && !by_itself {
        Some("the governor powersave")
    } else if said("energy_performance_preference", "power") {
        Some("the energy preference power")
    } else if text(&root.join("sys/firmware/acpi/platform_profile")).as_deref() == Some("low-power") {
        Some("the platform profile low-power")
    } else if text(&cpu.join("intel_pstate/no_turbo")).as_deref() == Some("1")
        || text(&cpu.join("cpufreq/boost")).as_deref() == Some("0")
    {
        Some("a switched-off turbo")
    } else {
        None
    };
    Power { on_battery, slowed_by: slowed_by.map(String::from) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::machine::tree;

    fn see(files: &[(&str, &str)]) -> Power {
        linux(tree(files).path())
    }

    #[test]
    fn batteries_of_the_machine_count_and_those_of_mice_do_not() {
        assert_eq!(see(&[]), Power::default());
        let battery = |status| {
            [
                ("sys/class/power_supply/BAT0/type", "Battery\n"),
                ("sys/class/power_supply/BAT0/status", status),
                ("sys/class/power_supply/AC/type", "Mains\n"),
            ]
        };
        assert_eq!(see(&battery("Discharging\n")).on_battery, Some(true));
        assert_eq!(see(&battery("Not charging\n")).on_battery, Some(false));
        let mouse = [
            ("sys/class/power_supply/hid-0/type", "Battery\n"),
            ("sys/class/power_supply/hid-0/scope", "Device\n"),
            ("sys/class/power_supply/hid-0/status", "Discharging\n"),
        ];
        assert_eq!(see(&mouse).on_battery, None);
    }

    #[test]
    fn a_governor_is_judged_by_its_driver() {
        let dir = "sys/devices/system/cpu/cpu0/cpufreq";
        let see = |driver: &str, preference: &str| {
            let paths = ["scaling_governor", "scaling_driver", "energy_performance_preference"];
            let paths = paths.map(|f| format!("{dir}/{f}"));
            see(&[(&paths[0], "powersave\n"), (&paths[1], driver), (&paths[2], preference)]).slowed_by
        };
        assert_eq!(see("acpi-cpufreq\n", "").as_deref(), Some("the governor powersave"));
        assert_eq!(see("intel_pstate\n", "balance_performance\n"), None);
        assert_eq!(see("intel_pstate\n", "power\n").as_deref(), Some("the energy preference power"));
        let turbo = [("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n")];
        assert_eq!(super::linux(tree(&turbo).path()).slowed_by.as_deref(), Some("a switched-off turbo"));
    }
}
