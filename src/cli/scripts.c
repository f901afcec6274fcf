/* Shells ask `mayfly __complete WORD...`, the last word being the one at the cursor, and get lines: a candidate, a tab, what
 * it means. The line ":file" asks for names of files, after the prefix behind its tab. */
#include "cli/commands.h"

/* bash breaks words at colons and equals signs, and replaces only what stands behind the last: so words are taken from the
 * line itself, and candidates lose what bash keeps. */
static const char bash[] =
        "# bash completion of mayfly, from `mayfly completion bash`\n"
        "_mayfly() {\n"
        "    local line=${COMP_LINE:0:COMP_POINT} words=() cur prefix= text about\n"
        "    read -ra words <<<\"$line\"\n"
        "    [[ $line == *[[:blank:]] ]] && words+=('')\n"
        "    cur=${words[${#words[@]} - 1]}\n"
        "    if [[ $cur == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]]; then prefix=${cur%\"${cur##*[:=]}\"}; fi\n"
        "    COMPREPLY=()\n"
        "    while IFS=$'\\t' read -r text about; do\n"
        "        if [[ $text == :file ]]; then\n"
        "            while IFS= read -r text; do COMPREPLY+=(\"$text\"); done < <(compgen -f -- "
        "\"${cur#\"$about\"}\")\n"
        "            compopt -o filenames 2>/dev/null\n"
        "        else\n"
        "            [[ $text == *[:=] ]] && compopt -o nospace 2>/dev/null\n"
        "            COMPREPLY+=(\"${text#\"$prefix\"}\")\n"
        "        fi\n"
        "    done < <(command mayfly __complete \"${words[@]:1}\" 2>/dev/null)\n"
        "}\n"
        "complete -F _mayfly mayfly\n";

static const char zsh[] =
        "#compdef mayfly\n"
        "# zsh completion of mayfly, from `mayfly completion zsh`\n"
        "_mayfly() {\n"
        "    local line text about files=0\n"
        "    local -a found open\n"
        "    for line in \"${(@f)$(command mayfly __complete \"${(@Q)words[2,CURRENT]}\" 2>/dev/null)}\"; do\n"
        "        text=${line%%$'\\t'*}\n"
        "        about=${line#*$'\\t'}\n"
        "        if [[ -z $text ]]; then\n"
        "            continue\n"
        "        elif [[ $text == :file ]]; then\n"
        "            files=1\n"
        "            [[ -n $about ]] && compset -P \"${(b)about}\"\n"
        "        elif [[ $text == *[:=] ]]; then\n"
        "            open+=(\"${text//:/\\\\:}:$about\")\n"
        "        else\n"
        "            found+=(\"${text//:/\\\\:}:$about\")\n"
        "        fi\n"
        "    done\n"
        "    (( $#found )) && _describe -V mayfly found\n"
        "    (( $#open )) && _describe -V mayfly open -S ''\n"
        "    (( files )) && _files\n"
        "    return 0\n"
        "}\n"
        "if [[ $funcstack[1] == _mayfly ]]; then _mayfly \"$@\"; else compdef _mayfly mayfly; fi\n";

static const char fish[] =
        "# fish completion of mayfly, from `mayfly completion fish`\n"
        "function __mayfly_complete\n"
        "    set -l before (commandline -opc)\n"
        "    set -l current (commandline -ct)\n"
        "    set -e before[1]\n"
        "    for line in (command mayfly __complete $before \"$current\" 2>/dev/null)\n"
        "        set -l parts (string split -m 1 \\t -- $line)\n"
        "        if test \"$parts[1]\" = :file\n"
        "            set -l prefix \"$parts[2]\"\n"
        "            set -l rest (string sub -s (math 1 + (string length -- \"$prefix\")) -- \"$current\")\n"
        "            for path in (__fish_complete_path \"$rest\")\n"
        "                echo $prefix$path\n"
        "            end\n"
        "        else\n"
        "            echo $line\n"
        "        end\n"
        "    end\n"
        "end\n"
        "complete -c mayfly -f -a '(__mayfly_complete)'\n";

const struct cli_script cli_scripts[] = {
        { "bash", bash },
        { "zsh", zsh },
        { "fish", fish },
        { NULL, NULL },
};
