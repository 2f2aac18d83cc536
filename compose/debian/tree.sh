# Functions of those checks that need a Debian of their own: what they install, and how it is made. To be read by bash.
# Expects the functions `say` and `skip`, and a folder for logs in `work`.
# shellcheck shell=bash disable=SC2154

# installs_missing PROGRAM=PACKAGE...: installs packages whose programs are not there.
installs_missing() {
    local pair missing=()
    for pair; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >"$work/apt" 2>&1 || { tail -n 5 "$work/apt" >&2 && skip "cannot install ${missing[*]}"; }
}

# Debian's archive as this machine itself reaches it.
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "main" { print $3; exit }'
}

# bare_debian CACHE PACKAGES: makes the release of this machine with these packages, unless CACHE has it; its archive is `base`.
bare_debian() {
    local cache=$1 include=$2 suite mirror
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mkdir -p "$cache"
    base=$cache/$suite-$(printf '%s' "$include" | sha256sum | cut -c 1-12).tar
    [ ! -s "$base" ] || return 0
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || skip 'no Debian archive among the package sources'
    say "making a bare Debian $suite"
    mmdebstrap --quiet --mode=root --format=tar --variant=minbase --include="$include" --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$base.new" "$mirror" ||
        skip "cannot make a bare Debian $suite from $mirror"
    mv "$base.new" "$base"
}
