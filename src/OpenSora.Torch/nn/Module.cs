using System.Reflection;
using TorchSharp.Modules;
using TorchSharp.Utils;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        /// <summary>The base of all layers and networks: a tree of named parameters, buffers and modules.</summary>
        /// <remarks>
        /// Fields become components under their own names when <see cref="RegisterComponents"/> runs, which a constructor calls last.
        /// A registered tensor leaves its dispose scope: the module owns it.
        /// </remarks>
        public class Module : IDisposable
        {
            protected readonly string name;

            protected OrderedDict<string, Parameter> _internal_params = new();
            protected OrderedDict<string, (Tensor, bool)> _internal_buffers = new();
            protected OrderedDict<string, Module> _internal_submodules = new();

            private bool _training = true;

            protected Module(string name) => this.name = name;

            public virtual bool training => _training;

            public virtual string GetName() => name;

            // --- registration ---------------------------------------------------------------------------------------

            /// <summary>Registers every field of the object's own type that holds a module, a parameter or (as a buffer) a tensor.</summary>
            protected virtual void RegisterComponents()
            {
                foreach (var field in Fields())
                {
                    var component = field.ComponentName();
                    switch (field.GetValue(this))
                    {
                        case Module module when !_internal_submodules.ContainsKey(component):
                            register_module(component, module);
                            break;
                        case Parameter parameter when !_internal_params.ContainsKey(component):
                            register_parameter(component, parameter);
                            break;
                        case Tensor tensor when tensor is not Modules.Parameter && !_internal_buffers.ContainsKey(component):
                            register_buffer(component, tensor);
                            break;
                    }
                }
            }

            private FieldInfo[] Fields() => GetType().GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic);

            public virtual void register_module(string name, Module submodule)
            {
                if (submodule is null)
                {
                    _internal_submodules.Remove(name);
                    return;
                }

                CheckName(name);
                if (_internal_submodules.ContainsKey(name))
                    throw new InvalidOperationException($"Sub-module {name} is already registered.");
                submodule.RegisterComponents();
                _internal_submodules.Add(name, submodule);
            }

            public void add_module(string name, Module module) => register_module(name, module);

            public virtual void register_parameter(string name, Parameter param)
            {
                ArgumentNullException.ThrowIfNull(param);
                CheckName(name);
                if (_internal_params.ContainsKey(name))
                    throw new InvalidOperationException($"Parameter {name} is already registered.");
                param.DetachFromDisposeScope();
                _internal_params.Add(name, param);
            }

            public virtual void register_buffer(string name, Tensor tensor, bool persistent = true)
            {
                ArgumentNullException.ThrowIfNull(tensor);
                CheckName(name);
                if (_internal_buffers.ContainsKey(name))
                    throw new InvalidOperationException($"Tensor {name} is already registered.");
                tensor.DetachFromDisposeScope();
                _internal_buffers.Add(name, (tensor, persistent));
            }

            protected void ConditionallyRegisterParameter(string name, Parameter? value)
            {
                if (value is null)
                {
                    _internal_params.Remove(name);
                    return;
                }

                value.DetachFromDisposeScope();
                _internal_params[name] = value;
            }

            protected void ConditionallyRegisterParameter(string name, Tensor? value) =>
                ConditionallyRegisterParameter(name, value as Parameter ?? (value is null ? null : new Parameter(value)));

            protected void ConditionallyRegisterBuffer(string name, Tensor? value, bool persistent = true)
            {
                if (value is null)
                {
                    _internal_buffers.Remove(name);
                    return;
                }

                value.DetachFromDisposeScope();
                _internal_buffers[name] = (value, persistent);
            }

            protected void ClearModules() => _internal_submodules.Clear();

            internal Parameter? Registered(string name) => _internal_params.TryGetValue(name, out var value) ? value : null;

            private static void CheckName(string name)
            {
                ArgumentException.ThrowIfNullOrEmpty(name);
                if (name.Contains('.', StringComparison.Ordinal))
                    throw new ArgumentException($"A component's name can't contain \".\", got: {name}", nameof(name));
            }

            // --- enumeration ----------------------------------------------------------------------------------------

            public virtual IEnumerable<(string name, Parameter parameter)> named_parameters(bool recurse = true)
            {
                var seen = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                foreach (var (key, parameter) in _internal_params)
                {
                    if (seen.Add(parameter))
                        yield return (key, parameter);
                }

                if (!recurse)
                    yield break;
                foreach (var (child, module) in _internal_submodules)
                {
                    foreach (var (key, parameter) in module.named_parameters())
                    {
                        if (seen.Add(parameter))
                            yield return ($"{child}.{key}", parameter);
                    }
                }
            }

            public virtual IEnumerable<Parameter> parameters(bool recurse = true) => named_parameters(recurse).Select(entry => entry.parameter);

            public virtual IEnumerable<(string name, Tensor buffer)> named_buffers(bool recurse = true, bool include_nonpersistent = true)
            {
                var seen = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                foreach (var (key, (buffer, persistent)) in _internal_buffers)
                {
                    if ((persistent || include_nonpersistent) && seen.Add(buffer))
                        yield return (key, buffer);
                }

                if (!recurse)
                    yield break;
                foreach (var (child, module) in _internal_submodules)
                {
                    foreach (var (key, buffer) in module.named_buffers(recurse: true, include_nonpersistent))
                    {
                        if (seen.Add(buffer))
                            yield return ($"{child}.{key}", buffer);
                    }
                }
            }

            public virtual IEnumerable<Tensor> buffers(bool recurse = true, bool include_nonpersistent = true) =>
                named_buffers(recurse, include_nonpersistent).Select(entry => entry.buffer);

            public virtual IEnumerable<(string name, Module module)> named_children() => _internal_submodules;

            public virtual IEnumerable<Module> children() => named_children().Select(entry => entry.module);

            public virtual IEnumerable<(string name, Module module)> named_modules()
            {
                foreach (var (child, module) in _internal_submodules)
                    yield return (child, module);
                foreach (var (child, module) in _internal_submodules)
                {
                    foreach (var (key, inner) in module.named_modules())
                        yield return ($"{child}.{key}", inner);
                }
            }

            public virtual IEnumerable<Module> modules() => named_modules().Select(entry => entry.module);

            public virtual bool has_parameter(string target) => get_parameter(target) is not null;

            public virtual bool has_buffer(string target) => get_buffer(target) is not null;

            public virtual Parameter? get_parameter(string target)
            {
                ArgumentNullException.ThrowIfNull(target);
                if (_internal_params.TryGetValue(target, out var parameter))
                    return parameter;
                return Child(ref target)?.get_parameter(target);
            }

            public virtual Tensor? get_buffer(string target)
            {
                ArgumentNullException.ThrowIfNull(target);
                if (_internal_buffers.TryGetValue(target, out var entry))
                    return entry.Item1;
                return Child(ref target)?.get_buffer(target);
            }

            private Module? Child(ref string target)
            {
                var dot = target.IndexOf('.', StringComparison.Ordinal);
                if (dot < 0 || !_internal_submodules.TryGetValue(target[..dot], out var child))
                    return null;
                target = target[(dot + 1)..];
                return child;
            }

            // --- state ----------------------------------------------------------------------------------------------

            /// <summary>Parameters and persistent buffers by name: the tensors themselves, not copies. Shared ones appear under each name.</summary>
            public virtual Dictionary<string, Tensor> state_dict(Dictionary<string, Tensor>? destination = null, string? prefix = null)
            {
                destination ??= new Dictionary<string, Tensor>(StringComparer.Ordinal);
                var start = string.IsNullOrEmpty(prefix) ? "" : prefix + ".";
                foreach (var (key, parameter) in _internal_params)
                    destination.TryAdd(start + key, parameter);
                foreach (var (key, (buffer, persistent)) in _internal_buffers)
                {
                    if (persistent)
                        destination.TryAdd(start + key, buffer);
                }

                foreach (var (child, module) in _internal_submodules)
                    module.state_dict(destination, start + child);
                return destination;
            }

            /// <summary>Copies values into parameters and buffers by name, converting their element type; shapes must be equal.</summary>
            public virtual (IList<string> missing_keys, IList<string> unexpected_keyes) load_state_dict(
                Dictionary<string, Tensor> source, bool strict = true, IList<string>? skip = null)
            {
                var destination = state_dict();
                var missing = destination.Keys.Where(key => skip?.Contains(key) != true && !source.ContainsKey(key)).ToList();
                var unexpected = source.Keys.Where(key => skip?.Contains(key) != true && !destination.ContainsKey(key)).ToList();
                if (strict && missing.Count + unexpected.Count > 0)
                {
                    throw new InvalidOperationException(
                        $"The loaded state_dict is not identical to the target dictionary. Missing: [{string.Join(", ", missing)}]; unexpected: [{string.Join(", ", unexpected)}].");
                }

                var common = destination.Where(entry => skip?.Contains(entry.Key) != true && source.ContainsKey(entry.Key)).ToList();
                foreach (var (key, target) in common)
                {
                    if (!target.shape.SequenceEqual(source[key].shape))
                    {
                        throw new ArgumentException(
                            $"{key} has the shape [{string.Join(", ", source[key].shape)}], expected [{string.Join(", ", target.shape)}].", nameof(source));
                    }
                }

                using var frozen = no_grad();
                using var scope = NewDisposeScope();
                foreach (var (key, target) in common)
                    target.copy_(source[key]);
                return (missing, unexpected);
            }

            // --- modes and conversions ------------------------------------------------------------------------------

            public virtual void train(bool train = true)
            {
                _training = train;
                foreach (var (_, module) in named_children())
                    module.train(train);
            }

            public virtual void eval() => train(train: false);

            public virtual Module apply(Action<Module> fn)
            {
                foreach (var (_, module) in named_children())
                    module.apply(fn);
                fn(this);
                return this;
            }

            public virtual void zero_grad(bool set_to_none = true)
            {
                foreach (var parameter in parameters())
                    Gradients.Zero(parameter, set_to_none);
            }

            protected internal virtual Module _to(Device device, ScalarType dtype, bool non_blocking) => Convert(dtype, device, non_blocking);

            protected internal virtual Module _to(ScalarType dtype, bool non_blocking) => Convert(dtype, null, non_blocking);

            protected internal virtual Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking) =>
                Convert(null, new Device(deviceType, deviceIndex), non_blocking);

            private Module Convert(ScalarType? dtype, Device? device, bool non_blocking)
            {
                foreach (var (_, module) in named_children())
                    module.Convert(dtype, device, non_blocking);
                _toEpilog(dtype, device, non_blocking);
                return this;
            }

            /// <summary>Converts this module's own tensors; they stay the same objects, so optimizers, ties and fields keep them.</summary>
            protected virtual void _toEpilog(ScalarType? dtype, Device? device, bool non_blocking)
            {
                using var frozen = no_grad();
                using var scope = NewDisposeScope();
                foreach (var tensor in _internal_params.Values.Concat(_internal_buffers.Values.Select(entry => entry.Item1)))
                {
                    var type = tensor.is_floating_point() ? dtype ?? tensor.dtype : tensor.dtype;
                    Gradients.Replace(tensor, tensor.to(type, device ?? tensor.device, non_blocking: non_blocking));
                }
            }

            // --- disposal -------------------------------------------------------------------------------------------

            public void Dispose()
            {
                Dispose(disposing: true);
                GC.SuppressFinalize(this);
            }

            protected virtual void Dispose(bool disposing)
            {
                if (!disposing)
                    return;
                foreach (var parameter in _internal_params.Values)
                    parameter.Dispose();
                foreach (var (buffer, _) in _internal_buffers.Values)
                    buffer.Dispose();
                foreach (var module in _internal_submodules.Values)
                    module.Dispose();
            }
        }
    }
}
