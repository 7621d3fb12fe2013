#compdef flow
# In zsh by its support for scripts of bash.
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
