using System.Globalization;
using System.Reflection;
using System.Text;

namespace OpenSora.TorchTests;

/// <summary>Lists the public and protected surface of an assembly, one member a line, in a form that two assemblies with the same source-level API share.</summary>
internal static class ApiSurface
{
    private const BindingFlags All = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;

    public static IEnumerable<string> Of(Assembly assembly, Func<Type, bool> which) =>
        assembly.GetTypes().Where(IsVisible).Where(which).SelectMany(Of).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal);

    private static IEnumerable<string> Of(Type type)
    {
        var self = Name(type);
        yield return $"{self} : {Kind(type)}";
        if (type.IsEnum)
        {
            foreach (var name in Enum.GetNames(type))
                yield return $"{self}.{name} = {Convert.ToInt64(Enum.Parse(type, name), CultureInfo.InvariantCulture)}";
            yield break;
        }

        foreach (var constructor in type.GetConstructors(All).Where(Open))
            yield return $"{self}.new({Parameters(constructor)})";
        foreach (var method in type.GetMethods(All).Where(Open).Where(m => !m.IsSpecialName || m.Name.StartsWith("op_", StringComparison.Ordinal)))
            yield return $"{self}.{method.Name}{Generics(method)}({Parameters(method)}) -> {Name(method.ReturnType)}{(method.IsStatic ? " static" : "")}";
        foreach (var property in type.GetProperties(All).Where(p => Open(p.GetMethod) || Open(p.SetMethod)))
        {
            var index = property.GetIndexParameters();
            yield return $"{self}.{property.Name}{(index.Length > 0 ? "[" + string.Join(", ", index.Select(Parameter)) + "]" : "")} -> {Name(property.PropertyType)}"
                + $"{(Open(property.GetMethod) ? " get" : "")}{(Open(property.SetMethod) ? " set" : "")}";
        }

        foreach (var field in type.GetFields(All).Where(f => f.IsPublic || f.IsFamily || f.IsFamilyOrAssembly))
            yield return $"{self}.{field.Name} -> {Name(field.FieldType)}{(field.IsStatic ? " static" : "")}";
    }

    private static bool IsVisible(Type type) => type.IsNested
        ? (type.IsNestedPublic || type.IsNestedFamily || type.IsNestedFamORAssem) && IsVisible(type.DeclaringType!)
        : type.IsPublic;

    private static bool Open(MethodBase? method) => method is not null && (method.IsPublic || method.IsFamily || method.IsFamilyOrAssembly);

    private static string Kind(Type type)
    {
        var kind = type switch
        {
            { IsEnum: true } => "enum",
            { IsInterface: true } => "interface",
            { IsValueType: true } => "struct",
            { IsAbstract: true, IsSealed: true } => "static class",
            { IsAbstract: true } => "abstract class",
            _ => "class",
        };
        return type.BaseType is { } b && b != typeof(object) && b != typeof(ValueType) && b != typeof(Enum) ? $"{kind} < {Name(b)}" : kind;
    }

    private static string Generics(MethodInfo method) =>
        method.IsGenericMethodDefinition ? "<" + string.Join(", ", method.GetGenericArguments().Select(g => g.Name)) + ">" : "";

    private static string Parameters(MethodBase method) => string.Join(", ", method.GetParameters().Select(Parameter));

    private static string Parameter(ParameterInfo parameter)
    {
        var type = parameter.ParameterType;
        var mode = parameter.IsOut ? "out " : type.IsByRef ? "ref " : parameter.IsDefined(typeof(ParamArrayAttribute)) ? "params " : "";
        return $"{mode}{Name(type.IsByRef ? type.GetElementType()! : type)} {parameter.Name}{(parameter.HasDefaultValue ? " = " + Default(parameter.RawDefaultValue) : "")}";
    }

    private static string Default(object? value) => value switch
    {
        null => "null",
        string s => "\"" + s + "\"",
        bool b => b ? "true" : "false",
        IFormattable f => f.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString()!,
    };

    private static string Name(Type type)
    {
        if (type.IsGenericParameter) return type.Name;
        if (type.IsArray) return Name(type.GetElementType()!) + "[" + new string(',', type.GetArrayRank() - 1) + "]";
        if (Nullable.GetUnderlyingType(type) is { } underlying) return Name(underlying) + "?";
        var arguments = type.GetGenericArguments();
        var chain = new List<Type>();
        for (var t = type; t is not null; t = t.DeclaringType) chain.Insert(0, t);
        var text = new StringBuilder(string.IsNullOrEmpty(type.Namespace) ? "" : type.Namespace + ".");
        var used = 0;
        for (var i = 0; i < chain.Count; i++)
        {
            if (i > 0) text.Append('.');
            var tick = chain[i].Name.IndexOf('`', StringComparison.Ordinal);
            text.Append(tick < 0 ? chain[i].Name : chain[i].Name[..tick]);
            var own = chain[i].GetGenericArguments().Length;
            if (own <= used) continue;
            text.Append('<').AppendJoin(", ", arguments.Skip(used).Take(own - used).Select(Name)).Append('>');
            used = own;
        }

        return text.ToString() switch
        {
            "System.Int64" => "long", "System.Int32" => "int", "System.Int16" => "short", "System.Byte" => "byte", "System.SByte" => "sbyte",
            "System.UInt64" => "ulong", "System.Single" => "float", "System.Double" => "double", "System.Boolean" => "bool",
            "System.String" => "string", "System.Object" => "object", "System.Void" => "void", var s => s,
        };
    }
}
