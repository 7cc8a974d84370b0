# fish completion for sluicectl. Verbs, options and arguments are read from its own help, so they are never out of step with it;
# services, streams and workers are asked from the daemon, briefly.

function __sluicectl_help # COMMAND [VERB...]: its help as lines of "verb|option|argument<TAB>words<TAB>what it is"
    $argv[1] help $argv[2..] 2>/dev/null | awk -v OFS='\t' '
        /^usage:/ {
            sub(/^usage: *[^ ]+/, ""); gsub(/\[--[^]]*\]/, ""); gsub(/\[|\]/, " ")
            for (i = 1; i <= NF; i++) if ($i ~ /^[A-Z]/) print "argument", $i, ""
            next
        }
        /^  [a-z-]/ && match(substr($0, 3), /  +/) {
            head = substr($0, 3, RSTART - 1); about = substr($0, 2 + RSTART + RLENGTH)
            n = split(head, word, " ")
            if (word[1] ~ /^--/) { print "option", head, about; next }
            verb = word[1]
            for (i = 2; i <= n && word[i] ~ /^[a-z]/; i++) verb = verb " " word[i]
            print "verb", verb, about
        }'
end

function __sluicectl_ask # COMMAND WORDS VERB KEY: the distinct values of KEY in the rows
    set -l socket
    set -l at (contains -i -- --socket $argv[4..])
    and set -q argv[(math $at + 4)]
    and set socket --socket $argv[(math $at + 4)]
    $argv[1] $socket --timeout 500ms --json $argv[2] 2>/dev/null | string match -ag -r "\"$argv[3]\":\"([^\"\\\\]*)\"" | sort -u
end

function __sluicectl_value # WHAT COMMAND WORDS...: an argument as the help calls it
    switch $argv[1]
        case SERVICE
            __sluicectl_ask $argv[2] status service $argv[3..]
        case 'STREAM*'
            __sluicectl_ask $argv[2] ls stream $argv[3..]
        case WORKER
            __sluicectl_ask $argv[2] workers name $argv[3..]
        case STATE
            printf '%s\n' locking parked ready assigned revoking limbo finishing lost blocked
        case REASON
            printf '%s\n' max_retries_exceeded unparseable too_large rejected operator wrong_type bad_name
        case DUR
            printf '%s\n' 500ms 10s 5m 2h 1d
        case PATH
            __fish_complete_path (commandline -ct)
    end
end

function __sluicectl_takes # OPTION HELP...: what its value is called, nothing when it takes none
    printf '%s\n' $argv[2..] | awk -F '\t' -v o="$argv[1]" '$1 == "option" { split($2, w, " "); if (w[1] == o) { print w[2]; exit } }'
end

function __sluicectl_next # GIVEN HELP...: the words that may follow those of the verb that are given, each with what it is
    printf '%s\n' $argv[2..] verb\thelp\t'what a verb does' | awk -F '\t' -v OFS='\t' -v g="$argv[1]" '
        $1 == "verb" && (g == "" || index($2, g " ") == 1) {
            n = split(g == "" ? $2 : substr($2, length(g) + 2), w, " ")
            if (!(w[1] in seen)) print w[1], n == 1 ? $3 : ""
            seen[w[1]] = 1
        }'
end

function __sluicectl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l command $words[1]
    type -q -- $command
    or set command sluicectl
    set -l every (__sluicectl_help $command)
    set -l help $every
    set -l given # the verb's words so far
    set -l asks_help
    set -l n 1 # which argument behind it comes next
    set -l skips
    set -l previous
    for word in $words[2..]
        set previous $word
        if test -n "$skips"
            set skips
            set previous
        else if string match -q -- '-*' $word
            set skips (__sluicectl_takes $word $help)
        else if test "$word" = help -a -z "$given$asks_help"
            set asks_help yes
        else if contains -- $word (__sluicectl_next "$given" $every | string split -f 1 \t)
            set -a given $word
            set -l about (__sluicectl_help $command $given)
            test -n "$about" # of half a verb there is none
            and set help $about
        else
            set n (math $n + 1)
        end
    end
    set -l following (__sluicectl_next "$given" $every)
    if test -n "$skips"
        __sluicectl_value $skips $command $words
    else if string match -q -- '-*' "$current"
        printf '%s\n' $help | awk -F '\t' -v OFS='\t' '$1 == "option" { sub(/ .*/, "", $2); print $2, $3 }'
    else if test $n = 1 -a -n "$following"
        printf '%s\n' $following
    else if test -z "$asks_help"
        __sluicectl_value (printf '%s\n' $help | string match -g -r '^argument\t([^\t]*)' | sed -n "$n"p) $command $words
    end
end

complete -c sluicectl -f -a '(__sluicectl_complete)'
